-- Corrects what was spent, at every level of the path: less than 0 gives back, more charges as far as the path can pay.
-- ARGV  6 credits (not 0), reason
-- Answer {OK, now, spent, overrun} as strings | {CONFLICT, now} | {EXCEEDS, now, level} | {UNKNOWN, ...} | {STALE_...}
-- Invariant: every level's spent moves by the same amount; a charge that cannot be paid is overrun.

local before, asked = repeated()
if before then return before end
demand(type(asked.credits) == 'number' and whole(math.abs(asked.credits), 1), 'credits')
local no = open_path(true)
if no then return no end

local spent, overrun = asked.credits, 0
if spent > 0 then
  local parts = {}
  spent = take_path(parts, asked.credits, 0)
  walk(parts, 0, spent, use)
  overrun = asked.credits - spent
else
  for i, account in ipairs(accounts) do
    if account[SPENT] + spent < 0 then return {'EXCEEDS', now, i - 1} end
  end
  for _, account in ipairs(accounts) do
    account[SPENT], account.moved = account[SPENT] + spent, true
    if #account.current == 0 then post(account, 'f', 'sw', -spent) end
    turn_windows(account)
    name_windows(account)
    for n, w in ipairs(account.current) do
      w[SPENT] = w[SPENT] + spent
      post(account, account.names[n], 'sl', -spent)
    end
  end
end
for _, account in ipairs(accounts) do
  add(account, 'adjusted', spent)
  add(account, 'overrun', overrun)
  post(account, 'overrun', 'wo', overrun)
end
commit('adjust', spent, asked.reason)
return remember(int(spent), int(overrun))
