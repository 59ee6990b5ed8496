-- Makes a written version the latest and deletes those beyond the ones kept, unless the run was taken over meanwhile.
-- KEYS: pointer, index of versions, epoch. ARGV: epoch, version, the pointer's new value, how many are kept.

local current = redis.call('GET', KEYS[3])
if not current then
  return redis.error_reply('NOLEDGER the run has none on this server')
end
if tonumber(current) < tonumber(ARGV[1]) then
  return redis.error_reply('FORGOTTEN the server does not know of the take-over of epoch ' .. ARGV[1])
end
if current ~= ARGV[1] then
  return redis.error_reply('OLDEPOCH expected ' .. current .. ', found ' .. ARGV[1])
end
redis.call('SET', KEYS[1], ARGV[3])
for _, version in ipairs(redis.call('ZRANGE', KEYS[2], 0, -tonumber(ARGV[4]) - 1)) do
  redis.call('ZREM', KEYS[2], version)
  redis.call('UNLINK', KEYS[1] .. ':' .. version)
end
return redis.status_reply('OK')
