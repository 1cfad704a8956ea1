-- Corrects what was spent, at every level of the path: less than 0 gives back, more charges as far as the path can pay.
-- ARGV  A.id, A.digest, A.keep_ms, A.credits (not 0), A.reason
-- Answer {OK, now, spent, overrun} as strings | {CONFLICT, now} | {EXCEEDS, now, level} | {UNKNOWN, ...} | {STALE_...}
-- Invariant: every level's spent moves by the same amount; a charge that cannot be paid is overrun.

local before = repeated()
if before then return before end
demand(type(A.credits) == 'number' and whole(math.abs(A.credits), 1), 'credits')
local no = open_path(false) or stale_window()
if no then return no end

local spent, overrun = A.credits, 0
if spent > 0 then
  local parts = {}
  spent = take_path(parts, A.credits, 0)
  use_up(parts, 0, spent)
  overrun = A.credits - spent
else
  for i, account in ipairs(accounts) do
    if account.spent + spent < 0 then return {'EXCEEDS', now, i - 1} end
  end
  for _, account in ipairs(accounts) do
    add(account, 'spent', spent)
    if #account.limits == 0 then post(account, 'f', 'spent', 'world', -spent) end
    for n, limit in ipairs(account.limits) do
      local w = present(account, limit)
      w.spent = w.spent + spent
      post(account, (n == 1 and 'w:' or 'c:') .. source_of(w), 'spent', 'left', -spent)
    end
  end
end
for _, account in ipairs(accounts) do
  add(account, 'adjusted', spent)
  add(account, 'overrun', overrun)
  post(account, 'overrun', 'world', 'overrun', overrun)
end
commit('adjust', A.id, spent, A.reason)
return remember(int(spent), int(overrun))
