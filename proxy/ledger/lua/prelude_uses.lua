-- Uses: what a person has used in the present day, week and month (UTC), and with a half-life; for the statistics of equality.
-- A person is the account of a path that its use is attributed to. Its level says so by its mark (what decides where it is counted),
-- and its balance ends with its uses, packed as below: the calendar windows are those that hold its day, so that one number tells all
-- three. A balance without them has none yet. Where a verb changes what a person has spent, they stand in its answer as they were and as
-- they are: the move, by which the statistics are kept without another round trip.
-- Of the half-life: each amount counts 2^((its time - the epoch's start) / half-life); epochs last a half-life, counted from the calendar's
-- first day, and the epoch is the day's. So a later epoch takes the sum over by an exact power of two.

-- The code, used in the day, the week, the month, aged by the half-life, the mark. The code is one number, so that one comparison tells
-- that nothing has turned: ((generation * 2^22 + day) * 2^9 + half-life in days) * 2 + (1 where it is entitled).
-- The mark, which ends with a zero, is appended as it is: the scripts never read it, and packing it costs as much as two numbers.
local USES = '<ddddd'
local DAY_MS = 86400000
local FIRST_DAY = 719163 -- 1 January 1970, where 1 January of the year 1 is 1

local day_starts, day_ends, today = 0, 0, 0 -- of the last call that counted

local function code_of(generation, day, half_life, entitled)
  return ((generation * 4194304 + day) * 512 + half_life) * 2 + entitled
end

local function read_code(code)
  local entitled = code % 2
  code = (code - entitled) / 2
  local half_life = code % 512
  code = (code - half_life) / 512
  local day = code % 4194304
  return (code - day) / 4194304, day, half_life, entitled
end

-- The month of a day: 12 times the year, and the month's number. The year is taken to begin in March, so that a leap day is its last.
local function month_of(day)
  local days = day + 305
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local years = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * years + math.floor(years / 4) - math.floor(years / 100))
  return 12 * (era * 400 + years) + math.floor((5 * of_year + 2) / 153) + 3
end

local function week_of(day)
  return math.floor((day - 1) / 7)
end

local function epoch_starts(day, half_life)
  return (day - day % half_life - FIRST_DAY) * DAY_MS
end

-- What a level's counting needs of the present day.
local function turn_day(level)
  if now < day_starts or now >= day_ends then
    day_starts = now - now % DAY_MS
    day_ends, today = day_starts + DAY_MS, day_starts / DAY_MS + FIRST_DAY
  end
  if level.today ~= today then
    level.today, level.code = today, code_of(level.generation, today, level.half_life, 0)
    level.epoch_starts, level.half_life_ms = epoch_starts(today, level.half_life), level.half_life * DAY_MS
  end
end

-- The sum of a half-life in units of an epoch of another one.
local function aged_anew(aged, day, half_life, other)
  local ages, ages_anew = (now - epoch_starts(day, half_life)) / (half_life * DAY_MS), (now - epoch_starts(day, other)) / (other * DAY_MS)
  return aged * 2 ^ (ages_anew - ages)
end

-- Uses whose code is not the level's, as of today; and when their epoch starts.
local function turn_uses(level, code, of_day, of_week, of_month, aged)
  local generation, day, half_life, entitled = read_code(code)
  if half_life ~= level.half_life then aged, half_life = aged_anew(aged, day, half_life, level.half_life), level.half_life end
  if day < today then
    of_day = 0
    if week_of(day) ~= week_of(today) then of_week = 0 end
    if month_of(day) ~= month_of(today) then of_month = 0 end
    aged = aged * 2 ^ (((day - day % half_life) - (today - today % half_life)) / half_life)
    day = today
  end
  code = code_of(math.max(generation, level.generation), day, half_life, entitled)
  return code, of_day, of_week, of_month, aged, epoch_starts(day, half_life)
end

-- Takes over the uses as the verb leaves them: the packed numbers, with the level's mark.
local function write_uses(account, numbers)
  uses_before, uses_after = account.rest, numbers .. account.level.person
  account.rest = uses_after
end

-- Adds to a person's uses what it has spent more than before; less takes from them, as far as they go.
local function count_use(account)
  local level, used = account.level, account[SPENT] - account.spent_before
  if now < day_starts or now >= day_ends or level.today ~= today then turn_day(level) end
  local code, of_day, of_week, of_month, aged, starts = level.code, 0, 0, 0, 0, level.epoch_starts
  if account.rest ~= '' then
    code, of_day, of_week, of_month, aged = struct.unpack(USES, account.rest)
    if code ~= level.code and code ~= level.code + 1 then
      code, of_day, of_week, of_month, aged, starts = turn_uses(level, code, of_day, of_week, of_month, aged)
    end
  end
  of_day, of_week, of_month = of_day + used, of_week + used, of_month + used
  aged = aged + used * 2 ^ ((now - starts) / level.half_life_ms)
  if used < 0 then of_day, of_week, of_month, aged = math.max(0, of_day), math.max(0, of_week), math.max(0, of_month), math.max(0, aged) end
  write_uses(account, struct.pack(USES, code, of_day, of_week, of_month, aged))
end

-- Adds to an answer the move, where there is one: in one text, which costs less than a list.
local function with_move(answer)
  if uses_after then answer[#answer + 1] = '~' .. uses_before .. uses_after end
  return answer
end
