-- The run's keys by name. Put before every script. All of them share the hash tag {run}, so that a cluster keeps them
-- in one slot and one script may change them together.

local stream = { tickets = KEYS[1], groups = KEYS[2], scored = KEYS[3] } -- each with one group of consumers, named as the stage
local dead = KEYS[4] -- stream: the dead letters
local ledger = KEYS[5] -- hash: the limits, which take_over.lua sets, and the counters
local running = KEYS[6] -- hash: ordinal -> 'stage entry-id attempt', one field for every group in flight
local holes = KEYS[7] -- sorted set: ordinals below the frontier that wait to be dispatched again
local attempts = KEYS[8] -- hash: ordinal -> its next attempt, where that is not 0
local failures = KEYS[9] -- hash: ordinal -> how often it failed
local evictions = KEYS[10] -- hash: reason -> how many groups were evicted for it
local stop = KEYS[11] -- string: why the run was asked to stop
local losses = KEYS[12] -- hash: ordinal -> how many workers were lost over it
local buried = KEYS[13] -- hash: ordinal -> id of its dead letter
local bytes = KEYS[14] -- hash: ordinal -> bytes of its payloads, for every group in flight that has some
local epoch = KEYS[15] -- string: which take-over of the run counts; the one key that outlives a begin

-- An ordinal below the frontier that neither runs nor is a hole has met its fate: consumed or buried. So no script
-- keeps the consumed set itself, which only ever grows.

local caller = table.remove(ARGV, 1) -- the epoch of a controller or learner; '' of a worker, whom its claims fence

local function require_epoch()
  local current = redis.call('GET', epoch)
  if caller ~= '' and current and tonumber(caller) < tonumber(current) then
    return redis.error_reply('OLDEPOCH expected ' .. current .. ', found ' .. caller)
  end
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

-- A group's entry in a stage, and its place there. The id is new, always: whoever claimed an earlier one is late.
local function put(stage, ordinal, attempt, payload)
  local id = redis.call('XADD', stream[stage], '*', 'payload', payload, 'ordinal', ordinal)
  redis.call('HSET', running, ordinal, stage .. ' ' .. id .. ' ' .. attempt)
end

-- Payload and ordinal of an entry; nil if it is gone.
local function entry_of(stage, id)
  local entry = redis.call('XRANGE', stream[stage], id, id)[1]
  if entry then
    return entry[2][2], entry[2][4]
  end
end

-- Acknowledged and deleted in one step: XLEN counts what is waiting or worked on, and nothing else.
local function settle(stage, id)
  redis.call('XACK', stream[stage], stage, id)
  redis.call('XDEL', stream[stage], id)
end

-- What a group's payloads take, charged to the run while the group is in flight.
local function charge(ordinal, size)
  local before = tonumber(redis.call('HGET', bytes, ordinal) or 0)
  if size > 0 then
    redis.call('HSET', bytes, ordinal, size)
  else
    redis.call('HDEL', bytes, ordinal)
  end
  redis.call('HINCRBY', ledger, 'payload_bytes', size - before)
  if size > number('largest_bytes') then
    redis.call('HSET', ledger, 'largest_bytes', size)
  end
end

local function forget(ordinal)
  charge(ordinal, 0)
  redis.call('HDEL', attempts, ordinal)
  redis.call('HDEL', failures, ordinal)
  redis.call('HDEL', losses, ordinal)
end

-- The same entry for the next one who asks.
local function deliver_again(stage, id)
  local payload, ordinal = entry_of(stage, id)
  put(stage, ordinal, place_of(ordinal).attempt, payload)
  settle(stage, id)
end
