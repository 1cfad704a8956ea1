-- Reads every level of a path at one instant, and how far the journal had come by then.
-- Answer {OK, now, last journal id, balance, {account fields}, and these two for each further level}
-- Invariant: changes nothing.

local last = redis.call('XREVRANGE', journal_key(), '+', '-', 'COUNT', 1)
local answer = {'OK', now, last[1] and last[1][1] or '0-0'}
for i = 1, #path do
  answer[#answer + 1] = stored[i + 1]
  answer[#answer + 1] = redis.call('HGETALL', account_key(path[i]))
end
return answer
