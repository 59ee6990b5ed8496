-- Ends an attempt without a result. Its ordinal becomes a hole, or, after too many failures, a dead letter; either way
-- its place is free for admit.lua.
-- ARGV: 'failed' or 'evicted', stage, entry id, owner, ordinal, reason, error. Returns what became of it: 'failed',
-- 'evicted', 'dead', or 'gone' if the claim is lost.

local fate, stage, id, owner, ordinal, reason, error_text = unpack(ARGV)
local place, wrong = held_place(stage, id, owner, ordinal)
if wrong then
  return wrong
end
if not place then
  return 'gone'
end
if fate == 'evicted' then
  redis.call('HINCRBY', evictions, reason, 1)
else
  redis.call('HINCRBY', ledger, 'failures_' .. stage, 1)
  if redis.call('HINCRBY', failures, ordinal, 1) >= number('max_attempts') then
    bury(stage, id, ordinal, reason, error_text)
    return 'dead'
  end
end
redis.call('HINCRBY', ledger, fate, 1)
redis.call('HDEL', running, ordinal)
settle(stage, id)
charge(ordinal, 0)
redis.call('HSET', attempts, ordinal, place.attempt + 1)
redis.call('ZADD', holes, ordinal, ordinal)
return fate
