-- Throws dead letters away. Their groups stay buried: that is their fate. ARGV: ordinals. Returns those that had a
-- letter.

local done = {}
for _, ordinal in ipairs(ARGV) do
  local id = redis.call('HGET', buried, ordinal)
  if id and redis.call('XDEL', dead, id) == 1 then
    done[#done + 1] = ordinal
  end
end
return done
