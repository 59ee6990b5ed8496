-- Dispatches groups as far as the bound allows: holes first, the lowest first, then the frontier. A place is charged
-- here and freed by finish_update.lua or give_back.lua, so that no group can be born staler than max_staleness.
-- ARGV: now_ms, schema of a ticket. Returns how many were dispatched.

local now_ms, schema = tonumber(ARGV[1]), ARGV[2]
local ahead = (number('max_staleness') + number('updates_done') + 1) * number('groups_per_update')
local room = math.min(ahead, number('total_groups')) - number('consumed') - redis.call('HLEN', running)
for _ = 1, room do
  local ordinal = redis.call('ZPOPMIN', holes)[1]
  if not ordinal then
    ordinal = redis.call('HINCRBY', ledger, 'frontier', 1) - 1
  end
  local attempt = tonumber(redis.call('HGET', attempts, ordinal) or 0)
  local ticket = { schema = schema, ordinal = tonumber(ordinal), attempt = attempt, created_ms = now_ms }
  put('tickets', ordinal, attempt, cmsgpack.pack(ticket))
  redis.call('HINCRBY', ledger, 'dispatched', 1)
end
return math.max(room, 0)
