-- One consistent look at the run. Returns the ledger, the evictions, what runs, the holes, and for each stage its name,
-- entries, pending entries and the age of its oldest entry in ms by the server's clock. XINFO's lag is not used: it is
-- nil after an XDEL of an entry that was never delivered.

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local stages = {}
for stage, key in pairs(stream) do
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local age_ms = oldest and now_ms - tonumber(string.match(oldest[1], '^%d+')) or 0
  local pending = redis.call('XPENDING', key, stage)[1]
  stages[#stages + 1] = { stage, redis.call('XLEN', key), pending, math.max(age_ms, 0) }
end
return {
  redis.call('HGETALL', ledger),
  redis.call('HGETALL', evictions),
  redis.call('HLEN', running),
  redis.call('ZCARD', holes),
  stages,
}
