-- Reads every level of a path at one instant, and how far the journal had come by then.
-- Answer {OK, now, last journal id, {account fields}, {grant fields}, ... for each level}
-- Invariant: changes nothing.

local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
local answer = {'OK', now, last[1] and last[1][1] or '0-0'}
for i = 1, #A.levels do
  answer[#answer + 1] = redis.call('HGETALL', KEYS[3 * i + 1])
  answer[#answer + 1] = redis.call('HGETALL', KEYS[3 * i + 2])
end
return answer
