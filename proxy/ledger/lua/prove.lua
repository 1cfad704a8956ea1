-- Moves what audits have folded of a tree further, from what its writer has read.
-- KEYS  1 what is folded: its place in the journal (the field ''), and each account   2 whose books are to be compared, by since when
-- ARGV  1 the place as it must be ('': none)   2 as it shall be   3 how many accounts   then for each its name and what is folded of it
--       then how many are to be compared   then for each since when and its name   then who was compared
-- Answer 1: it is so now, also where an earlier try has done it   0: another process was here, and nothing changes
-- Invariant: whoever an entry names either was compared after it, or stands among those that are to be.

local there = redis.call('HGET', KEYS[1], '') or ''
if there ~= ARGV[1] then return there == ARGV[2] and 1 or 0 end
redis.call('HSET', KEYS[1], '', ARGV[2])
local at = 4
for _ = 1, tonumber(ARGV[3]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
local waiting = tonumber(ARGV[at])
at = at + 1
for _ = 1, waiting do
  redis.call('ZADD', KEYS[2], 'NX', ARGV[at], ARGV[at + 1])
  at = at + 2
end
for n = at, #ARGV do redis.call('ZREM', KEYS[2], ARGV[n]) end
return 1
