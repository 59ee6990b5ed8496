-- The run's keys by name. Put before every script. All of them share the hash tag {run}, so that a cluster keeps them
-- in one slot and one script may change them together.

local stream = { tickets = KEYS[1], groups = KEYS[2], scored = KEYS[3] } -- each with one group of consumers, named as the stage
local dead = KEYS[4] -- stream: the dead letters
local ledger = KEYS[5] -- hash: the limits, which begin.lua fixes, and the counters
local running = KEYS[6] -- hash: ordinal -> 'stage entry-id attempt', one field for every group in flight
local holes = KEYS[7] -- sorted set: ordinals below the frontier that wait to be dispatched again
local attempts = KEYS[8] -- hash: ordinal -> its next attempt, where that is not 0
local failures = KEYS[9] -- hash: ordinal -> how often it failed
local evictions = KEYS[10] -- hash: reason -> how many groups were evicted for it
local stop = KEYS[11] -- string: why the run was asked to stop

-- An ordinal below the frontier that neither runs nor is a hole has met its fate: consumed or dead. So no script keeps
-- the consumed set itself, which only ever grows.
