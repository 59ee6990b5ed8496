-- What the scripts ask of a run that has begun. Put before every script but begin.lua.

if redis.call('EXISTS', ledger) == 0 then
  return redis.error_reply('NOLEDGER the run has none on this server')
end

local function number(field)
  return tonumber(redis.call('HGET', ledger, field))
end

-- Where a group in flight stands; nil if it is not in flight.
local function place_of(ordinal)
  local place = redis.call('HGET', running, ordinal)
  if not place then
    return nil
  end
  local stage, id, attempt = string.match(place, '^(%a+) (%S+) (%d+)$')
  return { stage = stage, id = id, attempt = tonumber(attempt) }
end

local function set_place(ordinal, stage, id, attempt)
  redis.call('HSET', running, ordinal, stage .. ' ' .. id .. ' ' .. attempt)
end

-- The place of `ordinal` if that is entry `id` of `stage`. Else nil, and an error if the entry is there all the same:
-- then the caller has taken it for another ordinal's, and to drop it would lose its group's place for ever.
local function held_place(stage, id, ordinal)
  local place = place_of(ordinal)
  if place and place.stage == stage and place.id == id then
    return place
  end
  if redis.call('XRANGE', stream[stage], id, id)[1] then
    return nil, redis.error_reply('WRONGORDINAL entry ' .. id .. ' of ' .. stage .. ' is not of ordinal ' .. ordinal)
  end
  return nil
end

-- Acknowledged and deleted in one step: XLEN counts what is waiting or worked on, and nothing else.
local function settle(stage, id)
  redis.call('XACK', stream[stage], stage, id)
  redis.call('XDEL', stream[stage], id)
end
