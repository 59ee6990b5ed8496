-- Moves a group to the next stage: the entry there appears in the same step in which the one here goes away.
-- ARGV: stage, next stage, entry id, owner, ordinal, attempt, payload, bytes of its payloads. Returns 1, or 0 if the claim is lost: the owner
-- came after its lease, or somebody else has settled the entry.

local stage, next_stage, id, owner, ordinal, attempt, payload, size = unpack(ARGV)
local place, wrong = held_place(stage, id, owner, ordinal)
if wrong then
  return wrong
end
if not place then
  -- The same call again, after an answer that was lost on its way, is no duplicate: its caller would delete the blobs.
  local now = place_of(ordinal)
  if now and now.stage == next_stage and entry_of(next_stage, now.id) == payload then
    return 1
  end
  redis.call('HINCRBY', ledger, 'duplicates', 1)
  return 0
end
if place.attempt ~= tonumber(attempt) then
  return redis.error_reply('WRONGATTEMPT expected ' .. place.attempt .. ' of ordinal ' .. ordinal .. ', found ' .. attempt)
end
put(next_stage, ordinal, attempt, payload)
settle(stage, id)
charge(ordinal, tonumber(size))
return 1
