-- What the scripts ask of a run that has begun. Put before every script but take_over.lua.

if redis.call('EXISTS', ledger) == 0 then
  return redis.error_reply('NOLEDGER the run has none on this server')
end
local old = require_epoch()
if old then
  return old
end
if caller ~= '' and caller ~= redis.call('GET', epoch) then
  return redis.error_reply('FORGOTTEN the server does not know of the take-over of epoch ' .. caller)
end

-- The place of `ordinal` if that is entry `id` of `stage` and `owner` has claimed it. Else nil, and an error if the
-- entry is there but another ordinal's: to drop it would lose its group's place for ever.
local function held_place(stage, id, owner, ordinal)
  local place = place_of(ordinal)
  if place and place.stage == stage and place.id == id then
    local claim = redis.call('XPENDING', stream[stage], stage, id, id, 1)[1]
    return claim and claim[2] == owner and place or nil
  end
  if entry_of(stage, id) then
    return nil, redis.error_reply('WRONGORDINAL entry ' .. id .. ' of ' .. stage .. ' is not of ordinal ' .. ordinal)
  end
  return nil
end

-- Ends a group for good: a dead letter, and its place for the next ordinal.
local function bury(stage, id, ordinal, reason, error_text)
  local letter = redis.call('XADD', dead, '*', 'ordinal', ordinal, 'attempt', place_of(ordinal).attempt, 'stage', stage,
    'reason', reason, 'error', error_text, 'payload', (entry_of(stage, id)))
  redis.call('HSET', buried, ordinal, letter)
  redis.call('HDEL', running, ordinal)
  settle(stage, id)
  forget(ordinal)
  redis.call('HINCRBY', ledger, 'dead', 1)
end

-- A claim whose owner is lost. Not the group's fault: the next worker gets the same entry. But a group over which one
-- worker after the other is lost is buried in the end. Returns what became of it: {stage, ordinal, owner, fate}.
local function lose(stage, id, owner, reason)
  local _, ordinal = entry_of(stage, id)
  redis.call('HINCRBY', ledger, 'lost_' .. stage, 1)
  local lost = redis.call('HINCRBY', losses, ordinal, 1)
  if lost > number('max_losses') then
    bury(stage, id, ordinal, reason, 'lost with ' .. lost .. ' workers, the last one ' .. owner)
    return { stage, ordinal, owner, 'dead' }
  end
  deliver_again(stage, id)
  return { stage, ordinal, owner, 'again' }
end
