-- Changes the settings of the last account of the path; what is not named stays.
-- ARGV  6 plan?, weight?, status?, labels? (JSON)
-- Answer {OK, now} | {CONFLICT, now} | {CLOSED, now} (a closed account stays closed) | {UNKNOWN, ...}
-- Invariant: balances are not touched; the version tells every reader that it must read again.

local before, asked = repeated()
if before then return before end
local no = open_path(false)
if no then return no end
local account = accounts[#accounts]
if account[STATUS] == CLOSED and asked.status ~= 'closed' then return {'CLOSED', now} end
account[VERSION], account.moved = account[VERSION] + 1, true
local fields = {'version', int(account[VERSION])}
for _, name in ipairs({'plan', 'status', 'labels'}) do
  if asked[name] then
    demand(type(asked[name]) == 'string', name)
    fields[#fields + 1] = name
    fields[#fields + 1] = asked[name]
  end
end
if asked.weight then
  demand(whole(asked.weight), 'weight')
  fields[#fields + 1] = 'weight'
  fields[#fields + 1] = int(asked.weight)
end
if asked.status then
  account[STATUS] = STATUS_CODES[asked.status]
  demand(account[STATUS], 'status')
end
redis.call('HSET', account_key(account.level), unpack(fields))
commit('change', 0)
return remember()
