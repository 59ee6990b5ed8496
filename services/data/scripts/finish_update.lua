-- Consumes an update's groups, all or none, and counts the update.
-- ARGV: update, then entry id, owner and ordinal of each group. Returns 1, or 0 if the very same call has been made
-- before. The caller has trained on these groups: if the server is behind, it has come back with an older memory.

local update = tonumber(table.remove(ARGV, 1))
local done = number('updates_done')
if update == done then
  for i = 1, #ARGV, 3 do
    if place_of(ARGV[i + 2]) then
      return redis.error_reply('WRONGUPDATE ' .. update .. ' is done, but ordinal ' .. ARGV[i + 2] .. ' is in flight')
    end
  end
  return 0
end
if update > done + 1 then
  return redis.error_reply('FORGOTTEN expected ' .. done + 1 .. ', found ' .. update)
elseif update ~= done + 1 then
  return redis.error_reply('WRONGUPDATE expected ' .. done + 1 .. ', found ' .. update)
end
for i = 1, #ARGV, 3 do
  local place, wrong = held_place('scored', ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if wrong then
    return wrong
  end
  if not place then
    return redis.error_reply('FORGOTTEN entry ' .. ARGV[i] .. ' of scored, ordinal ' .. ARGV[i + 2] .. ', is gone')
  end
end
redis.call('HSET', ledger, 'updates_done', update)
for i = 1, #ARGV, 3 do
  settle('scored', ARGV[i])
  redis.call('HDEL', running, ARGV[i + 2])
  forget(ARGV[i + 2])
  redis.call('HINCRBY', ledger, 'consumed', 1)
end
return 1
