-- Takes a root out of the list of roots that have something open, or notes when to look again.   KEYS  1 the list
-- ARGV  1 the root   2 the time that the sweeper saw   3 when to look again, ms ('' for never)
-- Answer {OK} | {MARKED} (someone has marked the root since)
-- Invariant: a mark that the sweeper has not seen is never lost.

if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'MARKED'} end
if ARGV[3] == '' then redis.call('ZREM', KEYS[1], ARGV[1]) else redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1]) end
return {'OK'}
