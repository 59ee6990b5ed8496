-- Has dead letters' groups dispatched again, with a clean record. ARGV: ordinals. Returns those that had a letter.

local done = {}
for _, ordinal in ipairs(ARGV) do
  local id = redis.call('HGET', buried, ordinal)
  local letter = id and redis.call('XRANGE', dead, id, id)[1]
  if letter then
    redis.call('HSET', attempts, ordinal, tonumber(letter[2][4]) + 1) -- first: a full server refuses it
    redis.call('ZADD', holes, ordinal, ordinal)
    redis.call('XDEL', dead, id)
    redis.call('HDEL', buried, ordinal)
    redis.call('HINCRBY', ledger, 'dead', -1)
    redis.call('HINCRBY', ledger, 'evicted', 1)
    redis.call('HINCRBY', evictions, 'retried', 1)
    done[#done + 1] = ordinal
  end
end
return done
