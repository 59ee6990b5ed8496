-- Moves a group to the next stage: the entry there appears in the same step in which the one here goes away.
-- ARGV: stage, next stage, entry id, ordinal, attempt, payload. Returns 1, or 0 if somebody else has settled the entry.

local stage, next_stage, id, ordinal, attempt, payload = unpack(ARGV)
local place, wrong = held_place(stage, id, ordinal)
if wrong then
  return wrong
end
if not place then
  -- The same call again, after an answer that was lost on its way, is no duplicate: its caller would delete the blobs.
  local now = place_of(ordinal)
  local entry = now and now.stage == next_stage and redis.call('XRANGE', stream[next_stage], now.id, now.id)[1]
  if entry and entry[2][2] == payload then
    return 1
  end
  redis.call('HINCRBY', ledger, 'duplicates', 1)
  return 0
end
if place.attempt ~= tonumber(attempt) then
  return redis.error_reply('WRONGATTEMPT expected ' .. place.attempt .. ' of ordinal ' .. ordinal .. ', found ' .. attempt)
end
local next_id = redis.call('XADD', stream[next_stage], '*', 'payload', payload)
set_place(ordinal, next_stage, next_id, attempt)
settle(stage, id)
return 1
