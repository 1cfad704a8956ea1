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
local code, of_day, of_week, of_month, aged, mark = level.code, 0, 0, 0, 0, level.person
if account.rest ~= '' then code, of_day, of_week, of_month, aged, mark = struct.unpack(USES, account.rest) end
local generation, day, half_life = read_code(code)
if half_life ~= level.half_life then aged, half_life = aged_anew(aged, day, half_life, level.half_life), level.half_life end
local anew = code_of(math.max(generation, level.generation), day, half_life, entitled)
if account.rest ~= '' and anew == code and mark == level.person then return {'OK', now} end
write_uses(account, anew, of_day, of_week, of_month, aged, level.person)
redis.call('SET', KEYS[2], write_balance(account))
return {'OK', now}
