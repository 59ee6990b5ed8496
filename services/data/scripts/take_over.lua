-- Takes the run over at the learner's checkpoint: whoever commanded it before is refused from now on.
-- ARGV: 'begin' drops whatever the queue holds, 'reconcile' keeps what the checkpoint does not contradict; a name of
-- the call, by which it is known when it comes again after a lost answer; n; n fields and values of the ledger in pairs;
-- then start and stop of the consumed intervals, rising. Returns the new epoch.

local call = table.remove(ARGV, 2)
if redis.call('HGET', ledger, 'taken_by') == call then
  return tonumber(redis.call('GET', epoch))
end
local old = require_epoch()
if old then
  return old
end
local manner = table.remove(ARGV, 1)
local num_fields = tonumber(table.remove(ARGV, 1))
local new = math.max(tonumber(redis.call('GET', epoch) or 0), tonumber(caller) or 0) + 1

if manner == 'begin' or redis.call('EXISTS', ledger) == 0 then
  redis.call('DEL', unpack(KEYS))
  for stage, key in pairs(stream) do
    redis.call('XGROUP', 'CREATE', key, stage, '0', 'MKSTREAM')
  end
end
redis.call('SET', epoch, new)
if caller == '' then
  redis.call('DEL', stop) -- of the former start; a commander that goes on keeps what it was asked
end

local was = { consumed = number('consumed'), frontier = number('frontier') or 0 } -- consumed: nil where there was none
local now = {}
for i = 1, 2 * num_fields, 2 do
  now[ARGV[i]] = tonumber(ARGV[i + 1])
  redis.call('HSET', ledger, ARGV[i], ARGV[i + 1])
end
local frontier = math.max(was.frontier, now.frontier)
redis.call('HSET', ledger, 'frontier', frontier)
if not was.consumed then
  for _, counter in ipairs({ 'evicted', 'failed', 'dead', 'duplicates', 'payload_bytes', 'largest_bytes' }) do
    redis.call('HSET', ledger, counter, 0)
  end
  for stage in pairs(stream) do
    redis.call('HSET', ledger, 'failures_' .. stage, 0, 'lost_' .. stage, 0)
  end
  redis.call('HSET', ledger, 'dispatched', now.consumed)
end

local bounds = {}
for i = 2 * num_fields + 1, #ARGV do
  bounds[#bounds + 1] = tonumber(ARGV[i])
end
local function is_consumed(ordinal)
  for i = 1, #bounds, 2 do
    if bounds[i] <= ordinal and ordinal < bounds[i + 1] then
      return true
    end
  end
  return false
end

-- The server may know less than the checkpoint, if it came back from an older file: what it would do again is settled.
local settled = 0
for _, ordinal in ipairs(redis.call('HKEYS', running)) do
  if is_consumed(tonumber(ordinal)) then
    local place = place_of(ordinal)
    settle(place.stage, place.id)
    redis.call('HDEL', running, ordinal)
    forget(ordinal)
    settled = settled + 1
  end
end
-- Or more: what was consumed after the checkpoint is rolled back.
if was.consumed then
  local unknown = now.consumed - was.consumed - settled
  if unknown < 0 then
    redis.call('HINCRBY', ledger, 'evicted', -unknown)
    redis.call('HINCRBY', evictions, 'rolled back', -unknown)
  else
    redis.call('HINCRBY', ledger, 'dispatched', unknown)
  end
end

redis.call('DEL', holes)
bounds[#bounds + 1] = frontier
local start = 0
for i = 1, #bounds, 2 do
  for ordinal = start, bounds[i] - 1 do
    if redis.call('HEXISTS', running, ordinal) == 0 and redis.call('HEXISTS', buried, ordinal) == 0 then
      redis.call('ZADD', holes, ordinal, ordinal)
    end
  end
  start = bounds[i + 1]
end

-- What the former learner had claimed is delivered again, under ids that it does not know; and where another process
-- commands from now on, so is what the former one's workers had.
for stage, key in pairs(stream) do
  if stage == 'scored' or caller == '' then
    for _, claim in ipairs(redis.call('XPENDING', key, stage, '-', '+', 1000000)) do
      deliver_again(stage, claim[1])
    end
  end
end
redis.call('HSET', ledger, 'taken_by', call)
return new
