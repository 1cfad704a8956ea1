-- Accounts and their windows. The balance of an account is one string: what a hold must read of it, and may change.
-- Its hash has its settings, the totals that no decision reads, its grants, and the windows that are over but still held.
-- What is packed is unpacked into arrays and packed from them; their places have names.

local HEAD = '<ddI4BHBI4d' -- spent, held, version, status, grants listed, windows, open holds, until when its rate is used up (us)
local WINDOW = '<ddddddi4dBs' -- as below
local SPENT, HELD = 1, 2
local VERSION, STATUS, GRANTS, WINDOWS, RUNNING, USED_UNTIL = 3, 4, 5, 6, 7, 8
local CREDITS, CARRIED, STARTS, RESETS, INDEX, CAP, ROLLOVER, KEY = 3, 4, 5, 6, 7, 8, 9, 10
local ACTIVE, CLOSED = 0, 2
local STATUS_NAMES = {[0] = 'active', 'suspended', 'closed'}
local STATUS_CODES = {active = ACTIVE, suspended = 1, closed = CLOSED}

local function read_window(packed, at)
  return {struct.unpack(WINDOW, packed, at)}
end

local function write_window(w)
  return struct.pack(WINDOW, unpack(w, 1, KEY))
end

local function write_balance(account)
  local windows = account.windows
  account[WINDOWS] = #windows
  local text = struct.pack(HEAD, unpack(account, 1, USED_UNTIL))
  if #windows == 1 then return text .. write_window(windows[1]) .. account.rest end
  for n = 1, #windows do text = text .. write_window(windows[n]) end
  return text .. account.rest
end

-- The windows of a level's limits, in their order, false where one has none yet.
local function windows_of_limits(limits, windows)
  local current = {}
  for n, limit in ipairs(limits) do
    current[n] = false
    for _, w in ipairs(windows) do
      if w[KEY] == limit.key then current[n] = w end
    end
  end
  return current
end

-- `windows` are all that the account ever had; `current` those of the limits that were sent; `rest` its uses (`prelude_uses`).
local function open_level(level)
  local packed = stored[level.number + 1]
  if not packed then return nil end
  local limits, windows = level.limits, {nil, nil}
  local account = {
    level = level, mark = level.mark, windows = windows, current = windows, names = level.names, source = level.source, moved = false,
    turned = false, left = nil, tightest = nil, posted = nil, rest = '', spent_before = 0, struct.unpack(HEAD, packed)
  }
  local count, at = account[WINDOWS], account[USED_UNTIL + 1]
  local ordered, as_sent = count == #limits, true
  for n = 1, count do
    local w = {struct.unpack(WINDOW, packed, at)}
    windows[n], at = w, w[KEY + 1]
    if ordered and w[KEY] == limits[n].key then as_sent = as_sent and w[INDEX] == limits[n].index else ordered = false end
  end
  account.spent_before = account[SPENT]
  if at <= #packed then account.rest = string.sub(packed, at) end
  if not ordered then account.current = windows_of_limits(limits, windows) end
  if not (ordered and as_sent) then account.names, account.source = nil, nil end
  return account
end

-- For verbs that touch the path from one level on, or its last account alone; which is the answer.
local function narrow(from)
  accounts = {unpack(accounts, from or #accounts)}
  for i = 1, #accounts do accounts[i].mark = ';' .. int(i - 1) end
  return accounts[#accounts]
end

-- Opens every level. Returns nil, or the answer where a level is unknown, or (for verbs that take) has changed since the caller read
-- it, or where a calendar window that was sent does not hold this moment.
local function open_path(takes)
  for i = 1, #path do
    local account = open_level(path[i])
    if not account then return {'UNKNOWN', now, i - 1} end
    if takes and path[i].version ~= account[VERSION] then return {'STALE_ACCOUNT', now, i - 1} end
    accounts[i] = account
  end
  if takes and (now < path.from or now >= path.till) then return {'STALE_WINDOW', now} end
  return nil
end

-- Nil, or the answer where an account is not active.
local function inactive()
  for i = 1, #accounts do
    local status = accounts[i][STATUS]
    if status ~= ACTIVE then return {'SUSPENDED', now, accounts[i].level.number - 1, STATUS_NAMES[status]} end
  end
  return nil
end

-- Adds to a total that no decision reads.
local function add(account, total, amount)
  if amount == 0 then return end
  account.added = account.added or {}
  account.added[total] = (account.added[total] or 0) + amount
end

-- What a limit (by its key) or the grants have left expires. Besides the total it stands under a name of its own until it is collected.
local function expire(account, key, amount)
  add(account, 'expired', amount)
  add(account, 'x:' .. key, amount)
end

-- Windows ---------------------------------------------------------------------------------------------------------------------

local function name_of(w)
  return w[KEY] .. '#' .. int(w[INDEX])
end

-- Opens the window that follows: what is left of the last one, and of those skipped, is carried or expires.
local function turn(account, w, limit, index, starts, resets)
  local left, skipped, carried = math.max(0, w[CREDITS] + w[CARRIED] - w[SPENT] - w[HELD]), 0, 0
  if limit.seconds == 0 then skipped = (index - w[INDEX] - 1) * limit.credits end
  if limit.rollover == 1 then carried = math.min(MAX, left + skipped)
  elseif limit.rollover == 2 then carried = math.min(limit.cap, left + skipped) end
  local kept = math.min(left, carried)
  post(account, 'w:' .. name_of(w), 'le', left - kept)
  post(account, 'w:' .. name_of(w), 'lc', kept)
  expire(account, w[KEY], left - kept)
  if w[HELD] > 0 then
    local past = {unpack(w, 1, KEY)}
    past.over = true
    account.past = account.past or {}
    account.past[name_of(w)] = past
  end
  w[SPENT], w[HELD], w[CREDITS], w[CARRIED], w[STARTS], w[RESETS], w[INDEX] = 0, 0, limit.credits, carried, starts, resets, index
  post(account, 'w:' .. name_of(w), 'wl', limit.credits + carried - kept)
  post(account, 'w:' .. name_of(w), 'bl', kept)
end

-- The window of the nth limit is opened, or turned where its time has come.
local function turn_window(account, n, limit)
  local w, index, starts, resets = account.current[n], limit.index, limit.starts, limit.resets
  if limit.seconds > 0 then
    if w and now < w[RESETS] then index, starts, resets = w[INDEX], w[STARTS], w[RESETS]
    else index, starts, resets = w and w[INDEX] + 1 or 0, now, now + limit.seconds * 1000 end
  end
  if not w then
    w = {0, 0, limit.credits, 0, starts, resets, index, limit.cap, limit.rollover, limit.key}
    account.windows[#account.windows + 1], account.current[n] = w, w
    post(account, 'w:' .. name_of(w), 'wl', w[CREDITS])
  elseif w[INDEX] < index then
    turn(account, w, limit, index, starts, resets)
  end
  if w[CREDITS] ~= limit.credits then
    post(account, 'w:' .. name_of(w), 'wl', math.max(0, limit.credits - w[CREDITS]))
    post(account, 'w:' .. name_of(w), 'ld', math.max(0, w[CREDITS] - limit.credits))
    w[CREDITS] = limit.credits
  end
  w[ROLLOVER], w[CAP] = limit.rollover, limit.cap
end

-- The windows of an account's limits as of now.
local function turn_windows(account)
  account.turned = true
  for n = 1, #account.current do
    local w, limit = account.current[n], account.level.limits[n]
    if not w or limit.seconds > 0 or w[INDEX] < limit.index or w[CREDITS] ~= limit.credits or w[ROLLOVER] ~= limit.rollover
      or w[CAP] ~= limit.cap then
      turn_window(account, n, limit)
      account.moved, account.names, account.source = true, nil, nil
    end
  end
end

-- The name under which the journal knows each window of the account's limits, the first with the account's totals ('w:'), the further
-- ones charged alongside ('c:'); and their common name as the source of what was taken from all of them.
local function name_windows(account)
  local names = {}
  for n, w in ipairs(account.current) do names[n] = (n == 1 and 'w:' or 'c:') .. name_of(w) end
  account.names, account.source = names, table.concat(names, '|')
end

-- The window that a hold took from; it may have been turned since.
local function window_at(account, key, index)
  for _, w in ipairs(account.windows) do
    if w[KEY] == key and w[INDEX] == index then return w end
  end
  local name = key .. '#' .. int(index)
  account.past = account.past or {}
  if not account.past[name] then
    local packed = redis.call('HGET', account_key(account.level), 'w:' .. name)
    if not packed then error('CORRUPT no window ' .. name, 0) end
    account.past[name] = read_window(packed, 1)
    account.past[name].over = true
  end
  return account.past[name]
end

-- The windows that a part was taken from, and their names.
local function windows_of(account, source)
  if source == account.source then return account.current, account.names end
  local windows, names = {}, {}
  for kind, key, index in string.gmatch(source, '([wc]:)([^#|]+)#(%d+)') do
    names[#names + 1] = kind .. key .. '#' .. index
    windows[#windows + 1] = window_at(account, key, tonumber(index))
  end
  return windows, names
end
