-- What every verb shares: six files, `prelude` first. `scripts.py` puts them in front of the verbs: one library where the server knows
-- functions, one script for each verb where it does not. Either way one call runs alone, between `begin` and its answer.
--
-- KEYS  1 the hold, or the record of an operation id   then the balance of each level of the path, root first
--       then the root's deadlines (holds) or its outbox (transfer, deliver)   then the root's journal
--       then for each level the account and, but for the root, its journal index
-- ARGV  1 the levels, in msgpack: {id, version, limits, per_minute, at_once, person, generation, half_life} for each; per_minute and
--       at_once only where one of them is set, the last three at one level alone
--         limits  {key, credits, index, starts, resets, rollover, rollover_max, seconds}: the calendar window that holds now;
--                 seconds > 0 instead for windows that start at the first use
--         per_minute, at_once  how many requests may begin a minute, and run at a time; 0: as many as come
--         person  the mark under which the use of the path is counted; generation of the counting, half_life in days
--       2 the time, in simulations alone; else '' for the server's
--       3 the id of the hold or the operation   4 for verbs on holds their numbers, packed as doubles   then what each verb says
--         Amounts are nanocredits, times milliseconds since 1970, all whole numbers below 2^53.
-- Invariant: a verb changes Lua tables only, until `commit` writes them; so it writes everything or nothing.
-- A verb costs what it calls and what it makes: so there is one read and one write for all levels, and few tables, which are made as
-- large as they commonly become (`{nil, nil}` has room for two).

-- As locals these are found sooner; a library has them only once it is called.
local function standard() return math, string, struct, unpack end
local math, string, struct, unpack

local MAX = 9007199254740991
local PATHS_MAX = 2000

-- Of the call that runs now.
local KEYS, A, now
local path -- its levels as they were sent
local stored -- what stands under the first keys: the record, then the balance of each level
local accounts -- its levels as they stand
local postings, pieces -- the pieces of the journal's text, and how many; the first two are for the verb and its amount
local posted, posted_first -- the amounts that were posted last and first
local uses_before, uses_after -- a person's uses as they were and as they are, nil where they are the same

local function demand(holds, what)
  if not holds then error('ARGUMENT ' .. what, 0) end
end

local function whole(n, least)
  return type(n) == 'number' and n % 1 == 0 and n >= (least or 0) and n <= MAX
end

-- The numbers of a verb on a hold, which must be whole.
local function numbers(format)
  local a, b, c, d, e = struct.unpack(format, A[4])
  if a % 1 ~= 0 or a < 0 or a > MAX or b % 1 ~= 0 or b < 0 or b > MAX or c and (c % 1 ~= 0 or c < 0 or c > MAX)
    or d and (d % 1 ~= 0 or d < 0 or d > MAX) then error('ARGUMENT numbers', 0) end
  return a, b, c, d, e
end

local function int(n)
  return string.format('%d', n)
end

-- The path ----------------------------------------------------------------------------------------------------------------------

local ROLLOVER = {none = 0, full = 1, capped = 2}

local function read_limit(n, row)
  demand(type(row[1]) == 'string' and whole(row[2]) and whole(row[7]) and whole(row[8]) and ROLLOVER[row[6]], 'limit')
  return {
    key = row[1], credits = row[2], index = row[3], starts = row[4], resets = row[5], rollover = ROLLOVER[row[6]], cap = row[7],
    seconds = row[8], name = (n == 1 and 'w:' or 'c:') .. row[1] .. '#' .. int(row[3]),
  }
end

local MINUTE_US = 60000000

-- What one request, of so many a minute, uses up of its rate.
local function cost_us_of(per_minute)
  return math.ceil(MINUTE_US / per_minute)
end

local function read_level(i, row)
  demand(type(row[1]) == 'string' and type(row[2]) == 'number' and type(row[3]) == 'table' and #row[3] <= 8, 'level')
  local per_minute, at_once = row[4] or 0, row[5] or 0
  demand(whole(per_minute) and whole(at_once), 'rates')
  local level = {
    number = i, id = row[1], version = row[2], limits = {}, names = {}, mark = ';' .. int(i - 1), per_minute = per_minute,
    at_once = at_once, cost_us = per_minute > 0 and cost_us_of(per_minute) or 0, person = row[6], generation = row[7],
    half_life = row[8], today = nil, code = nil, epoch_starts = nil, half_life_ms = nil,
  }
  demand(not level.person or type(level.person) == 'string' and whole(level.generation, 1) and level.generation < 1048576 and whole(level.half_life, 1) and level.half_life < 512, 'person')
  level.person = level.person and level.person .. '\0' -- as it ends the uses
  for n, limit in ipairs(row[3]) do
    level.limits[n] = read_limit(n, limit)
    level.names[n] = level.limits[n].name
  end
  level.source = table.concat(level.names, '|')
  return level
end

-- Paths that were sent before, by their text. A function library keeps them from call to call; a script starts anew each time.
local paths, paths_known = {}, 0

local function read_path(packed)
  local rows = cmsgpack.unpack(packed)
  demand(type(rows) == 'table' and #rows >= 1 and #rows <= 8, 'levels')
  local read, ids = {from = 0, till = MAX + 1, keys = 2 + 3 * #rows}, {}
  for i, row in ipairs(rows) do
    local level = read_level(i, row)
    for _, limit in ipairs(level.limits) do
      if limit.seconds == 0 then
        read.from, read.till = math.max(read.from, limit.starts), math.min(read.till, limit.resets)
      end
    end
    read[i], ids[i] = level, level.id
    read.rated = read.rated or level.per_minute > 0 or level.at_once > 0
  end
  read.text = table.concat(ids, ' ')
  if read[1].version < 0 then return read end -- asked about one after the other, not again and again
  if paths_known >= PATHS_MAX then paths, paths_known = {}, 0 end
  paths[packed], paths_known = read, paths_known + 1
  return read
end

local function begin(keys, argv)
  if not math then math, string, struct, unpack = standard() end
  KEYS, A, accounts, posted, posted_first, uses_before, uses_after = keys, argv, {nil, nil}, nil, nil, nil, nil
  postings, pieces = {'', '', nil, nil, nil, nil, nil, nil, nil, nil}, 2
  path = paths[argv[1]] or read_path(argv[1])
  if #KEYS ~= path.keys or not argv[3] then error('ARGUMENT keys', 0) end
  if argv[2] == '' then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  else
    now = tonumber(argv[2])
    demand(whole(now), 'now')
  end
  stored = redis.call('MGET', unpack(KEYS, 1, #path + 1))
end

-- The keys behind the balances.
local function root_key() return KEYS[#path + 2] end -- deadlines or outbox
local function journal_key() return KEYS[#path + 3] end
local function account_key(level) return KEYS[#path + 2 + 2 * level.number - (level.number > 1 and 1 or 0)] end
local function index_key(level) return KEYS[#path + 2 + 2 * level.number] end

-- The journal's text --------------------------------------------------------------------------------------------------------------
-- The verb; a space and its amount unless it is that of the first posting; the postings; a line feed and the memo, where there is one.
-- A posting: ';', the level, where from, where to, then the amount unless it is that of the posting before, then a space and the source
-- unless it is the last one that the level posted. Places: w world, l left, h held, s spent, e expired, g given, r revoked, c carried,
-- b brought, o overrun, d lowered. So a hold of two levels says 'hold;0lh500 w:day:UTC#20779;1lh w:day:UTC#20779'.

local function post(account, source, move, amount)
  if amount == 0 then return end
  local n = pieces + 2
  postings[n - 1], postings[n] = account.mark, move
  if amount ~= posted then
    n = n + 1
    postings[n] = int(amount)
    posted, posted_first = amount, posted_first or amount
  end
  if source ~= account.posted then
    postings[n + 1], postings[n + 2], n = ' ', source, n + 2
    account.posted = source
  end
  pieces = n
end

local function journal_text(verb, amount, memo)
  postings[1] = verb
  if amount ~= posted_first then postings[2] = ' ' .. int(amount) end
  if memo and memo ~= '' then postings[pieces + 1], postings[pieces + 2], pieces = '\n', memo, pieces + 2 end
  return table.concat(postings, '', 1, pieces)
end
