-- Replaces whatever the run had in the queue by an empty queue and the ledger of the learner's checkpoint.
-- ARGV: n, then n fields and n values of the ledger in pairs, then the holes

redis.call('DEL', unpack(KEYS))
for stage, key in pairs(stream) do
  redis.call('XGROUP', 'CREATE', key, stage, '0', 'MKSTREAM')
end
local pairs_end = 1 + 2 * tonumber(ARGV[1])
for i = 2, pairs_end, 2 do
  redis.call('HSET', ledger, ARGV[i], ARGV[i + 1])
end
for i = pairs_end + 1, #ARGV do
  redis.call('ZADD', holes, ARGV[i], ARGV[i])
end
return redis.status_reply('OK')
