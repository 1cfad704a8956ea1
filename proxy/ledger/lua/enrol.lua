-- Brings up to date where the one account of the path is counted in the statistics, and whether it is entitled, used or not.
-- ARGV  4 '1' where it is entitled, else '0'
-- Answer {OK, now} | {UNKNOWN, now, level}
-- Invariant: what it has used stays what it is; a repeat changes nothing.

local account = open_level(path[1])
if not account then return {'UNKNOWN', now, 0} end
local level, entitled = account.level, A[4] == '1' and 1 or 0
demand(level.person, 'person')
if account.rest == '' and entitled == 0 then return {'OK', now} end
turn_day(level)
local code, of_day, of_week, of_month, aged = level.code, 0, 0, 0, 0
if account.rest ~= '' then code, of_day, of_week, of_month, aged = struct.unpack(USES, account.rest) end
local generation, day, half_life = read_code(code)
if half_life ~= level.half_life then aged, half_life = aged_anew(aged, day, half_life, level.half_life), level.half_life end
local anew = code_of(math.max(generation, level.generation), day, half_life, entitled)
write_uses(account, struct.pack(USES, anew, of_day, of_week, of_month, aged))
if uses_after == uses_before then
  uses_after = nil
  return {'OK', now}
end
redis.call('SET', KEYS[2], write_balance(account))
return {'OK', now}
