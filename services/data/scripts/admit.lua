-- Dispatches groups as far as the bound allows: holes first, the lowest first, then the frontier. A place is charged
-- here and freed by finish_update.lua or give_back.lua, so that no group can be born staler than max_staleness.
-- ARGV: now_ms, schema of a ticket. Returns how many were dispatched.

local now_ms, schema = tonumber(ARGV[1]), ARGV[2]
local in_flight = redis.call('HLEN', running)
local ahead = (number('max_staleness') + number('updates_done') + 1) * number('groups_per_update')
local room = math.min(ahead, number('total_groups')) - number('consumed') - in_flight
if number('max_groups') > 0 then
  room = math.min(room, number('max_groups') - in_flight)
end
if number('max_payload_bytes') > 0 and room > 0 then
  -- A ticket is charged as the largest group so far will be; before the first there is room for one update's groups.
  local drawing, largest = redis.call('XLEN', stream.tickets), number('largest_bytes')
  local free = number('max_payload_bytes') - number('payload_bytes') - drawing * largest
  local needed = math.min(number('groups_per_update'), number('total_groups') - number('consumed'))
  room = math.min(room, largest > 0 and math.floor(free / largest) or needed - in_flight)
  if room <= 0 and in_flight < needed and redis.call('XLEN', stream.scored) == in_flight then
    return redis.error_reply('NOROOM expected at least ' .. number('payload_bytes') + largest .. ' bytes, found '
      .. number('max_payload_bytes') .. ': ' .. in_flight .. ' scored groups of ' .. needed .. ' wait for each other')
  end
end
for _ = 1, room do
  local hole = redis.call('ZRANGE', holes, 0, 0)[1]
  local ordinal = hole or number('frontier')
  local attempt = tonumber(redis.call('HGET', attempts, ordinal) or 0)
  local ticket = { schema = schema, ordinal = tonumber(ordinal), attempt = attempt, created_ms = now_ms }
  put('tickets', ordinal, attempt, cmsgpack.pack(ticket))
  if hole then -- only now: a full server refuses the ticket, and what is taken out before it would be lost
    redis.call('ZREM', holes, hole)
  else
    redis.call('HINCRBY', ledger, 'frontier', 1)
  end
  redis.call('HINCRBY', ledger, 'dispatched', 1)
end
return math.max(room, 0)
