-- Ends an attempt without a result. Its ordinal becomes a hole, or, after too many failures, a dead letter; either way
-- its place is free for admit.lua.
-- ARGV: 'failed' or 'evicted', stage, entry id, ordinal, reason, error. Returns what became of it: 'failed', 'evicted',
-- 'dead', or 'gone' if somebody else has settled the entry.

local fate, stage, id, ordinal, reason, error_text = unpack(ARGV)
local place, wrong = held_place(stage, id, ordinal)
if wrong then
  return wrong
end
if not place then
  return 'gone'
end
local payload = redis.call('XRANGE', stream[stage], id, id)[1][2][2]
redis.call('HDEL', running, ordinal)
settle(stage, id)
if fate == 'evicted' then
  redis.call('HINCRBY', evictions, reason, 1)
else
  redis.call('HINCRBY', ledger, 'failures_' .. stage, 1)
  if redis.call('HINCRBY', failures, ordinal, 1) >= number('max_attempts') then
    fate = 'dead'
  end
end
redis.call('HINCRBY', ledger, fate, 1)
if fate == 'dead' then
  redis.call('HDEL', attempts, ordinal)
  redis.call('HDEL', failures, ordinal)
  redis.call('XADD', dead, '*', 'ordinal', ordinal, 'attempt', place.attempt, 'stage', stage, 'reason', reason,
    'error', error_text, 'payload', payload)
else
  redis.call('HSET', attempts, ordinal, place.attempt + 1)
  redis.call('ZADD', holes, ordinal, ordinal)
end
return fate
