-- Takes away every claim of a ticket or a group that was not renewed for a lease. The learner's claims are left alone:
-- take_over.lua ends them. ARGV: lease in ms. Returns a row of lose() for each.
--
-- While the server or the sweeper stood still nobody could renew, or the renewals wait behind this very call, and every
-- claim looks old. So after a gap of half a lease between two sweeps nothing is taken away for one whole lease.

local lease_ms = tonumber(ARGV[1])
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local swept_ms = number('swept_ms') or 0
redis.call('HSET', ledger, 'swept_ms', now_ms)
if math.abs(now_ms - swept_ms) >= lease_ms / 2 then
  redis.call('HSET', ledger, 'patient_until_ms', now_ms + lease_ms)
end
if now_ms < number('patient_until_ms') then
  return {}
end
local lost = {}
for _, stage in ipairs({ 'tickets', 'groups' }) do
  for _, claim in ipairs(redis.call('XPENDING', stream[stage], stage, 'IDLE', lease_ms, '-', '+', 1000000)) do
    lost[#lost + 1] = lose(stage, claim[1], claim[2], 'lease')
  end
end
return lost
