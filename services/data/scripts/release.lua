-- Takes away every claim of an owner that is known to be gone, and forgets the consumer.
-- ARGV: owner, or a slot: then of all that ever filled it; reason. Returns a row of lose() for each.

local owner, reason = ARGV[1], ARGV[2]
local lost = {}
for _, stage in ipairs({ 'tickets', 'groups', 'scored' }) do
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream[stage], stage)) do
    local name = consumer[2]
    if name == owner or string.sub(name, 1, #owner + 1) == owner .. '/' then
      for _, claim in ipairs(redis.call('XPENDING', stream[stage], stage, '-', '+', 1000000, name)) do
        if stage == 'scored' then
          deliver_again(stage, claim[1])
        else
          lost[#lost + 1] = lose(stage, claim[1], name, reason)
        end
      end
      redis.call('XGROUP', 'DELCONSUMER', stream[stage], stage, name)
    end
  end
end
return lost
