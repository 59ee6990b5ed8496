-- Renews the lease of every entry that an owner has claimed: their time begins anew, their delivery count stays.
-- ARGV: owner. Returns the entries' ids.

local owner = ARGV[1]
local held = {}
for stage, key in pairs(stream) do
  for _, claim in ipairs(redis.call('XPENDING', key, stage, '-', '+', 1000000, owner)) do
    redis.call('XCLAIM', key, stage, owner, 0, claim[1], 'JUSTID')
    held[#held + 1] = claim[1]
  end
end
return held
