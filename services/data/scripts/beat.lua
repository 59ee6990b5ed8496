#!lua flags=allow-oom
-- Keeps beats of workers. A full server takes them, too: who is not heard there would be taken for dead.
-- KEYS: the run's beats. ARGV: slot and beat of each.

return redis.call('HSET', KEYS[1], unpack(ARGV))
