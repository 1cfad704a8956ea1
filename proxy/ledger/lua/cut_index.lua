-- Takes the oldest entries out of an account's index of the journal, and counts how many went, so that places in it keep their numbers.
-- KEYS  1 the index   2 how many have gone, by account   ARGV  1 the account   2 how many had gone before   3 how many go now
-- Answer {OK}
-- Invariant: the same again changes nothing.

local gone = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if gone == tonumber(ARGV[2]) then
  redis.call('LTRIM', KEYS[1], ARGV[3], -1)
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%d', gone + tonumber(ARGV[3])))
end
return {'OK'}
