-- Records what a hold has spent so far, then reserves up to `want` more at every level.
-- ARGV  A.id, A.sequence (1, 2, 3...), A.spent, A.want, A.ttl_ms
-- Answer {OK, now, amount, tightest...} | {GONE, now} | {CONFLICT, now} | {UNKNOWN, ...} | {STALE_ACCOUNT, ...} | {STALE_WINDOW, now}
-- Invariant: a sequence takes once; a repeat of it only debits.

demand(type(A.id) == 'string' and whole(A.sequence, 1) and whole(A.spent) and whole(A.want), 'extend')
local hold = read_hold()
if not hold or hold.state ~= 'open' then return {'GONE', now} end
if A.sequence == hold.sequence and hold.wanted ~= A.want then return {'CONFLICT', now} end
local no = open_path(false) or stale_window()
if no then return no end

local spent = math.max(hold.spent, math.min(A.spent, hold.amount))
use_up(hold.parts, hold.spent, spent)
local taken = 0
if A.sequence > hold.sequence then
  local active = true
  for _, account in ipairs(accounts) do active = active and account.status == 'active' end
  if active and A.want > 0 then taken = take_path(hold.parts, math.min(A.want, MAX - hold.amount), 0) end
end
commit('extend', A.id, taken)
hold.spent, hold.amount = spent, hold.amount + taken
if A.sequence > hold.sequence then hold.sequence, hold.wanted = A.sequence, A.want end
keep_alive(hold)
return {'OK', now, hold.amount, unpack(tightest())}
