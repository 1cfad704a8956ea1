-- Records what a hold has spent so far, then reserves up to `want` more at every level.
-- ARGV  A.id, A.sequence (1, 2, 3...), A.spent, A.want, A.ttl_ms
-- Answer {OK, now, amount, tightest...} | {GONE, now} | {CONFLICT, now} | {UNKNOWN, ...} | {STALE_ACCOUNT, ...} | {STALE_WINDOW, now}
-- Invariant: a sequence takes once; a repeat of it only debits.

demand(type(A.id) == 'string' and whole(A.sequence, 1) and whole(A.spent) and whole(A.want), 'extend')
local hold = read_hold()
if not hold or hold.state ~= 'open' then return {'GONE', now} end
if A.sequence == hold.sequence and hold.wanted ~= int(A.want) then return {'CONFLICT', now} end
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
local fields = {'spent', int(spent), 'amount', int(hold.amount + taken), 'parts', cmsgpack.pack(hold.parts)}
if A.sequence > hold.sequence then
  fields[#fields + 1] = 'sequence'
  fields[#fields + 1] = int(A.sequence)
  fields[#fields + 1] = 'wanted'
  fields[#fields + 1] = int(A.want)
end
redis.call('HSET', KEYS[1], unpack(fields))
keep_alive(A.ttl_ms)
return {'OK', now, hold.amount + taken, unpack(tightest())}
