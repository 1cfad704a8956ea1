-- Changes a document from what its writer has read.   KEYS  1 the document
-- ARGV  1 what it says ('' where there is none)   2 what it shall say ('' to drop it)   3 how long it then stays, ms (0: for good)
-- Answer 1: it says so now, also where an earlier try has written it   0: it says something else, and stays as it is
-- Invariant: of two writers that have read the same, one alone changes it.

local there = redis.call('GET', KEYS[1]) or ''
if there == ARGV[2] then return 1 end
if there ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
elseif tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
