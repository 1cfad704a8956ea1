-- Takes what was told into the hashes that it is told of: writes what its caller has found each field to become.
-- KEYS  1 what was folded until now   2 what was told, the oldest first   then the hashes
-- ARGV  1 what was folded when its caller read ('': nothing)   2 what is folded with this   3 how many of what was told it takes
--       4 how long ARGV 2 stays (ms)   then for each hash: how long it stays (ms), how many fields and values follow, and these
-- Answer {OK}: also where an earlier try has done it | {STALE}: somebody else has folded meanwhile
-- Invariant: of those who have read the same, one alone writes; what is told leaves with what it adds, so it is added once.
-- The adding is the caller's work: here it would cost a hundred times what writing costs.

local folded = redis.call('GET', KEYS[1]) or ''
if folded == ARGV[2] then return {'OK'} end
if folded ~= ARGV[1] then return {'STALE'} end

local AT_ONCE = 1000 -- as many values as Lua hands over safely
local at = 5
for k = 3, #KEYS do
  local ends = at + 1 + tonumber(ARGV[at + 1])
  for from = at + 2, ends, AT_ONCE do
    redis.call('HSET', KEYS[k], unpack(ARGV, from, math.min(ends, from + AT_ONCE - 1)))
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[at])
  at = ends + 1
end
redis.call('LTRIM', KEYS[2], ARGV[3], -1)
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
return {'OK'}
