-- What every verb shares. `scripts.py` wraps each verb's file into a function behind this text: one library where the server knows
-- functions, one script for each verb where it does not. Either way one call runs alone, between `begin` and its answer.
--
-- KEYS  1 the hold, or the record of an operation id   2 the root's deadlines (holds), or its outbox (transfer, deliver)
--       3 the root's journal   then three for each level of the path, root first: account, grants, journal index
-- ARGV  1 a msgpack map, `A` below. Amounts are nanocredits, times milliseconds since 1970, all whole numbers below 2^53:
--         levels  {id, version, limits} for each level; version -1 asks for no check
--         limits  {key, credits, index, starts, resets, rollover, rollover_max, seconds}: the calendar window that holds now;
--                 seconds > 0 instead for windows that start at the first use
--         now     the time, in simulations alone; else the server's
-- Invariant: a verb changes Lua tables only, until `commit` writes them; so it writes everything or nothing.

local MAX = 9007199254740991

-- Of the call that runs now.
local KEYS, A, now
local accounts = {} -- the levels of the path
local postings = {} -- what the journal entry will say: who moved what between which places of which source

local function demand(holds, what)
  if not holds then error('ARGUMENT ' .. what, 0) end
end

local function whole(n, least)
  return type(n) == 'number' and n == math.floor(n) and n >= (least or 0) and n <= MAX
end

local function int(n)
  return string.format('%d', n)
end

local function begin(keys, argv)
  KEYS, A, accounts, postings = keys, cmsgpack.unpack(argv[1]), {}, {}
  demand(type(A) == 'table' and type(A.levels) == 'table' and #A.levels >= 1 and #A.levels <= 8, 'levels')
  demand(#KEYS == 3 + 3 * #A.levels, 'keys')
  now = A.now
  if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  demand(whole(now), 'now')
end

local function post(account, source, origin, target, amount)
  if amount ~= 0 then
    postings[#postings + 1] = account.place .. ' ' .. source .. ' ' .. origin .. ' ' .. target .. ' ' .. int(amount)
  end
end

-- Windows ---------------------------------------------------------------------------------------------------------------------

-- A window is stored as a msgpack array: index, starts, resets, credits, carried, spent, held, rollover, rollover_max.
local function read_window(key, packed)
  local v = cmsgpack.unpack(packed)
  if type(v) ~= 'table' or #v ~= 9 then error('CORRUPT window ' .. key, 0) end
  return {
    key = key, index = v[1], starts = v[2], resets = v[3], credits = v[4], carried = v[5], spent = v[6], held = v[7], rollover = v[8], cap = v[9],
  }
end

local function write_window(w)
  return cmsgpack.pack({w.index, w.starts, w.resets, w.credits, w.carried, w.spent, w.held, w.rollover, w.cap})
end

local function source_of(w)
  return w.key .. '#' .. int(w.index)
end

local function left_of(w)
  return w.credits + w.carried - w.spent - w.held
end

-- Accounts --------------------------------------------------------------------------------------------------------------------

-- `added` collects what is added to totals that no decision reads; spent and held are read.
local function open_level(i)
  local level, base = A.levels[i], 3 * i
  local limits = level[3]
  demand(type(level[1]) == 'string' and type(limits) == 'table' and #limits <= 8, 'level')
  local names = {'version', 'status', 'grants', 'spent', 'held'}
  for n, limit in ipairs(limits) do
    demand(type(limit[1]) == 'string' and whole(limit[2]) and whole(limit[7]) and whole(limit[8]), 'limit')
    names[5 + n] = 'w:' .. limit[1]
  end
  local values = redis.call('HMGET', KEYS[base + 1], unpack(names))
  local account = {
    place = int(i - 1), id = level[1], limits = limits, key = KEYS[base + 1], grants_key = KEYS[base + 2], index_key = KEYS[base + 3],
    version = tonumber(values[1] or -1), status = values[2], grant_records = tonumber(values[3] or 0),
    spent = tonumber(values[4] or 0), held = tonumber(values[5] or 0), windows = {}, presented = {}, changed = {},
  }
  for n, limit in ipairs(limits) do
    if values[5 + n] then account.windows[limit[1]] = read_window(limit[1], values[5 + n]) end
  end
  return account
end

-- For verbs that touch the last account of the path alone.
local function narrow()
  accounts = {accounts[#accounts]}
  accounts[1].place = '0'
  return accounts[1]
end

-- Opens every level. Returns nil, or the answer where a level is unknown, has changed since the caller read it, or is not active.
local function open_path(active)
  for i = 1, #A.levels do
    local account = open_level(i)
    if not account.status then return {'UNKNOWN', now, i - 1} end
    if A.levels[i][2] >= 0 and A.levels[i][2] ~= account.version then return {'STALE_ACCOUNT', now, i - 1} end
    accounts[i] = account
  end
  if active then
    for i, account in ipairs(accounts) do
      if account.status ~= 'active' then return {'SUSPENDED', now, i - 1, account.status} end
    end
  end
  return nil
end

-- Nil, or the answer where a calendar window that was sent does not hold this moment.
local function stale_window()
  for _, level in ipairs(A.levels) do
    for _, limit in ipairs(level[3]) do
      if limit[8] == 0 and (now < limit[4] or now >= limit[5]) then return {'STALE_WINDOW', now} end
    end
  end
  return nil
end

local function add(account, total, amount)
  if amount == 0 then return end
  if total == 'spent' or total == 'held' then
    account[total] = account[total] + amount
    account.moved = true
  else
    account.added = account.added or {}
    account.added[total] = (account.added[total] or 0) + amount
  end
end

-- Marks a window (present or past) to be written.
local function change(account, name, w)
  account.changed[name] = w
end

-- Opens the next window: what is left of the last one, and of those skipped, is carried or expires.
local function turn(account, w, limit, index, starts, resets)
  local left, skipped, carried = left_of(w), 0, 0
  if left < 0 then left = 0 end
  if limit[8] == 0 then skipped = (index - w.index - 1) * limit[2] end
  if limit[6] == 'full' then carried = math.min(MAX, left + skipped)
  elseif limit[6] == 'capped' then carried = math.min(limit[7], left + skipped) end
  local kept = math.min(left, carried)
  post(account, 'w:' .. source_of(w), 'left', 'expired', left - kept)
  post(account, 'w:' .. source_of(w), 'left', 'carried', kept)
  add(account, 'expired', left - kept)
  if w.held > 0 then
    account.past = account.past or {}
    account.past[source_of(w)] = w
    change(account, source_of(w), w)
  end
  local fresh = {
    key = w.key, index = index, starts = starts, resets = resets, credits = limit[2], carried = carried, spent = 0, held = 0,
    rollover = limit[6], cap = limit[7],
  }
  post(account, 'w:' .. source_of(fresh), 'world', 'left', fresh.credits + carried - kept)
  post(account, 'w:' .. source_of(fresh), 'brought', 'left', kept)
  return fresh
end

-- The present window of a limit, opened or turned where its time has come.
local function present(account, limit)
  local key = limit[1]
  if account.presented[key] then return account.windows[key] end
  local w, index, starts, resets = account.windows[key], limit[3], limit[4], limit[5]
  if limit[8] > 0 then
    if w and now < w.resets then index, starts, resets = w.index, w.starts, w.resets
    else index, starts, resets = w and w.index + 1 or 0, now, now + limit[8] * 1000 end
  end
  if not w then
    w = {
      key = key, index = index, starts = starts, resets = resets, credits = limit[2], carried = 0, spent = 0, held = 0,
      rollover = limit[6], cap = limit[7],
    }
    post(account, 'w:' .. source_of(w), 'world', 'left', w.credits)
  elseif w.index < index then
    w = turn(account, w, limit, index, starts, resets)
  end
  if w.credits ~= limit[2] then
    post(account, 'w:' .. source_of(w), 'world', 'left', math.max(0, limit[2] - w.credits))
    post(account, 'w:' .. source_of(w), 'left', 'lowered', math.max(0, w.credits - limit[2]))
    w.credits = limit[2]
  end
  w.rollover, w.cap = limit[6], limit[7]
  account.windows[key] = w
  account.presented[key] = true
  change(account, key, w)
  return w
end

-- The window that a hold took from; it may have been turned since.
local function window_at(account, key, index)
  local w = account.windows[key]
  if w == nil then
    local text = redis.call('HGET', account.key, 'w:' .. key)
    if text then
      w = read_window(key, text)
      account.windows[key] = w
    end
  end
  if w and int(w.index) == index then
    change(account, key, w)
    return w, true
  end
  local name = key .. '#' .. index
  account.past = account.past or {}
  local old = account.past[name]
  if old == nil then
    local text = redis.call('HGET', account.key, 'w:' .. name)
    if not text then error('CORRUPT no window ' .. name, 0) end
    old = read_window(key, text)
    account.past[name] = old
  end
  change(account, name, old)
  return old, false
end

-- Grants ----------------------------------------------------------------------------------------------------------------------

local GRANT = '^(-?%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%a+) (.*)$'

local function read_grant(id, text)
  local priority, effective, expires, created, credits, spent, held, left, expired, given, revoked, state, reason = string.match(text, GRANT)
  if not priority then error('CORRUPT grant ' .. id, 0) end
  return {
    id = id, priority = tonumber(priority), effective = tonumber(effective), expires = tonumber(expires), created = tonumber(created),
    credits = tonumber(credits), spent = tonumber(spent), held = tonumber(held), left = tonumber(left), expired = tonumber(expired),
    given = tonumber(given), revoked = tonumber(revoked), state = state, reason = reason,
  }
end

local function write_grant(g)
  return string.format('%d %d %d %d %d %d %d %d %d %d %d %s %s', g.priority, g.effective, g.expires, g.created,
    g.credits, g.spent, g.held, g.left, g.expired, g.given, g.revoked, g.state, g.reason)
end

local function change_grant(account, g)
  account.changed_grants = account.changed_grants or {}
  account.changed_grants[g.id] = g
end

local function load_grants(account)
  if not account.grants then
    account.grants = {}
    if account.grant_records > 0 then
      local flat = redis.call('HGETALL', account.grants_key)
      for n = 1, #flat, 2 do account.grants[flat[n]] = read_grant(flat[n], flat[n + 1]) end
    end
  end
  return account.grants
end

local function burns_before(a, b)
  if a.priority ~= b.priority then return a.priority < b.priority end
  if a.expires ~= b.expires then return a.expires < b.expires end
  if a.created ~= b.created then return a.created < b.created end
  return a.id < b.id
end

-- The grants that may be spent now, in the order in which they are spent, and what they have left together.
local function usable_grants(account)
  local usable, left = {}, 0
  if account.grant_records == 0 then return usable, left end
  for _, g in pairs(load_grants(account)) do
    if g.state == 'live' and g.left > 0 and g.effective <= now and now < g.expires then
      usable[#usable + 1] = g
      left = left + g.left
    end
  end
  table.sort(usable, burns_before)
  return usable, math.min(left, MAX)
end

local function expire_grants(account)
  for id, g in pairs(load_grants(account)) do
    if g.state == 'live' and g.left > 0 and g.expires <= now then
      post(account, 'g:' .. id, 'left', 'expired', g.left)
      add(account, 'expired', g.left)
      g.expired, g.left = g.expired + g.left, 0
      change_grant(account, g)
    end
  end
end

-- What a level can pay --------------------------------------------------------------------------------------------------------

-- What the limits leave, and the limit that leaves least; nil where there is none.
local function limits_left(account)
  local least, tightest = nil, nil
  for _, limit in ipairs(account.limits) do
    local left = math.max(0, left_of(present(account, limit)))
    if least == nil or left < least then least, tightest = left, limit end
  end
  return least, tightest
end

-- What the level can pay of `want`: exact where it is less, nil where it has no limit.
local function available(account, want)
  local left, tightest = limits_left(account)
  if left == nil or left >= want then return left, tightest end
  local _, granted = usable_grants(account)
  return math.min(MAX, left + granted), tightest
end

-- The smallest that any level can pay of `want` (nil: no level has a limit), and that level. Totals must stay whole numbers, too.
local function path_available(want)
  local least, at = nil, nil
  for _, account in ipairs(accounts) do
    local amount = available(account, want)
    local countable = MAX - math.max(0, account.spent) - account.held
    if countable < math.min(amount or want, want) then amount = math.max(0, countable) end
    if amount ~= nil and (least == nil or amount < least) then least, at = amount, account end
  end
  return least, at
end

-- What the level could pay if nothing were spent or held.
local function capacity(account)
  local least = MAX
  for _, limit in ipairs(account.limits) do
    local w = present(account, limit)
    least = math.min(least, math.max(0, w.credits + w.carried))
  end
  if account.grant_records > 0 then
    for _, g in pairs(load_grants(account)) do
      if g.state == 'live' and g.effective <= now and now < g.expires then least = math.min(MAX, least + g.left + g.held) end
    end
  end
  return least
end

-- The answer that names the level and the limit that cannot pay.
local function insufficient(account, free, overdue)
  local _, limit = limits_left(account)
  local resets = limit and account.windows[limit[1]].resets or 0
  return {'INSUFFICIENT', now, tonumber(account.place), limit and limit[1] or '', free, account.held, capacity(account), resets, overdue}
end

-- The limit of the path that leaves least: {level, key, credits, remaining, starts, resets}, or {-1}.
local function tightest()
  local found = {-1}
  for i, account in ipairs(accounts) do
    local left, limit = limits_left(account)
    if left ~= nil then
      local w = account.windows[limit[1]]
      local _, granted = usable_grants(account)
      local remaining = math.min(MAX, left + granted)
      if found[1] < 0 or remaining < found[4] then found = {i - 1, limit[1], w.credits, remaining, w.starts, w.resets} end
    end
  end
  return found
end

-- Moving credits --------------------------------------------------------------------------------------------------------------
-- A hold keeps, for each level, parts {amount, source}. A source is 'f' (the level has no limit), 'g:<grant>', or
-- 'w:<key>#<index>' for each limit that was charged, joined by '|'; the first of them carries the level's totals.

local function append(parts, amount, source)
  local last = parts[#parts]
  if last and last[2] == source then last[1] = last[1] + amount else parts[#parts + 1] = {amount, source} end
end

-- Takes an amount that the level is known to have: limits first, then grants.
local function take(account, amount, parts)
  if amount == 0 then return end
  add(account, 'held', amount)
  local left = limits_left(account)
  if left == nil then
    post(account, 'f', 'world', 'held', amount)
    append(parts, amount, 'f')
    return
  end
  local paid = math.min(left, amount)
  if paid > 0 then
    local sources = {}
    for n, limit in ipairs(account.limits) do
      local w = account.windows[limit[1]]
      w.held = w.held + paid
      sources[n] = source_of(w)
      post(account, (n == 1 and 'w:' or 'c:') .. sources[n], 'left', 'held', paid)
    end
    append(parts, paid, 'w:' .. table.concat(sources, '|'))
  end
  if paid == amount then return end
  expire_grants(account)
  for _, g in ipairs(usable_grants(account)) do
    local piece = math.min(g.left, amount - paid)
    g.left, g.held = g.left - piece, g.held + piece
    change_grant(account, g)
    post(account, 'g:' .. g.id, 'left', 'held', piece)
    append(parts, piece, 'g:' .. g.id)
    paid = paid + piece
    if paid == amount then return end
  end
  error('CORRUPT the level has less than it said', 0)
end

-- Calls `visit(window, is_present, source_name)` for each window that a part was taken from.
local function each_window(account, source, visit)
  local prefix = 'w:'
  for key, index in string.gmatch(string.sub(source, 3), '([^#|]+)#(%d+)') do
    local w, is_present = window_at(account, key, index)
    visit(w, is_present, prefix .. key .. '#' .. index)
    prefix = 'c:'
  end
end

local function grant_of(account, source)
  local id = string.sub(source, 3)
  local g = load_grants(account)[id]
  if not g then error('CORRUPT no grant ' .. id, 0) end
  change_grant(account, g)
  return g
end

-- What was held is used up: `as` is 'spent' or 'given'.
local function use(account, amount, source, as)
  add(account, 'held', -amount)
  add(account, as, amount)
  if source == 'f' then
    post(account, 'f', 'held', as, amount)
  elseif string.sub(source, 1, 1) == 'g' then
    local g = grant_of(account, source)
    g.held, g[as] = g.held - amount, g[as] + amount
    post(account, source, 'held', as, amount)
  else
    each_window(account, source, function(w, _, name)
      w.held, w.spent = w.held - amount, w.spent + amount
      post(account, name, 'held', as, amount)
    end)
  end
end

-- What is returned to a window that is over goes where the window's own remainder went.
local function return_to_past(account, w, name, amount)
  local current = account.windows[w.key]
  local carried = 0
  if w.rollover == 'full' then carried = math.min(amount, MAX - current.carried)
  elseif w.rollover == 'capped' then carried = math.max(0, math.min(amount, w.cap - current.carried)) end
  current.carried = current.carried + carried
  change(account, w.key, current)
  add(account, 'expired', amount - carried)
  post(account, name, 'held', 'expired', amount - carried)
  post(account, name, 'held', 'carried', carried)
  post(account, 'w:' .. source_of(current), 'brought', 'left', carried)
end

-- What was held and not used goes back to where it came from.
local function release(account, amount, source)
  add(account, 'held', -amount)
  if source == 'f' then
    post(account, 'f', 'held', 'world', amount)
  elseif string.sub(source, 1, 1) == 'g' then
    local g = grant_of(account, source)
    local target = 'left'
    if g.state == 'revoked' then target = 'revoked' elseif g.expires <= now then target = 'expired' end
    g.held, g[target] = g.held - amount, g[target] + amount
    if target ~= 'left' then add(account, target, amount) end
    post(account, source, 'held', target, amount)
  else
    each_window(account, source, function(w, is_present, name)
      w.held = w.held - amount
      if is_present then post(account, name, 'held', 'left', amount) else return_to_past(account, w, name, amount) end
    end)
  end
end

-- Calls `act(account, amount, source)` for the stretch from..to of each level's parts.
local function walk(parts, from, to, act)
  if to <= from then return end
  for i, account in ipairs(accounts) do
    local begins = 0
    for _, part in ipairs(parts[i]) do
      local ends = begins + part[1]
      local amount = math.min(ends, to) - math.max(begins, from)
      if amount > 0 then act(account, amount, part[2]) end
      begins = ends
    end
  end
end

local function use_up(parts, from, to)
  walk(parts, from, to, function(account, amount, source) use(account, amount, source, 'spent') end)
end

-- Takes up to `want` at every level alike, at least `least`. Returns the amount, or nil, the level that cannot, and what that has.
local function take_path(parts, want, least)
  local free, at = path_available(want)
  local amount = math.min(want, free or want)
  if amount < least then return nil, at, free end
  for i, account in ipairs(accounts) do
    parts[i] = parts[i] or {}
    take(account, amount, parts[i])
  end
  return amount
end

-- Writing ---------------------------------------------------------------------------------------------------------------------

local function flush(account)
  local fields, n = {}, 0
  if account.moved then
    fields, n = {'spent', int(account.spent), 'held', int(account.held)}, 4
  end
  for name, w in pairs(account.changed) do
    if w.held == 0 and account.past and account.past[name] == w then
      redis.call('HDEL', account.key, 'w:' .. name)
    else
      fields[n + 1], fields[n + 2], n = 'w:' .. name, write_window(w), n + 2
    end
  end
  if n > 0 then redis.call('HSET', account.key, unpack(fields)) end
  for total, amount in pairs(account.added or {}) do redis.call('HINCRBY', account.key, total, int(amount)) end
  for id, g in pairs(account.changed_grants or {}) do redis.call('HSET', account.grants_key, id, write_grant(g)) end
end

-- Writes everything that changed. The journal goes first: where it cannot be written, nothing is.
local function commit(verb, id, amount, memo)
  if #postings == 0 and verb ~= 'settle' then
    for _, account in ipairs(accounts) do flush(account) end
    return
  end
  local ids = {}
  for i, account in ipairs(accounts) do ids[i] = account.id end
  local entry = redis.call('XADD', KEYS[3], '*', 'v', verb, 'i', id, 'p', table.concat(ids, ' '), 'n', int(amount), 'm', memo or '',
    't', table.concat(postings, ';'))
  for _, account in ipairs(accounts) do
    flush(account)
    -- The root needs no index: the whole journal is its own.
    if account.index_key ~= KEYS[6] then redis.call('RPUSH', account.index_key, entry) end
  end
end

-- Holds -----------------------------------------------------------------------------------------------------------------------

-- A hold is stored as a msgpack array, in the order of `write_hold`; its parts go when it ends.
local function read_hold()
  local packed = redis.call('GET', KEYS[1])
  if not packed then return nil end
  local v = cmsgpack.unpack(packed)
  return {
    state = v[1], path = v[2], amount = v[3], spent = v[4], created = v[5], deadline = v[6], want = v[7], least = v[8], first = v[9],
    sequence = v[10], wanted = v[11], overrun = v[12], asked = v[13], parts = v[14],
  }
end

local function write_hold(h, keep_ms)
  local packed = cmsgpack.pack({
    h.state, h.path, h.amount, h.spent, h.created, h.deadline, h.want, h.least, h.first, h.sequence, h.wanted, h.overrun, h.asked, h.parts,
  })
  if keep_ms then redis.call('SET', KEYS[1], packed, 'PX', int(keep_ms)) else redis.call('SET', KEYS[1], packed) end
end

local function keep_alive(h)
  demand(whole(A.ttl_ms, 1), 'ttl')
  h.deadline = now + A.ttl_ms
  write_hold(h)
  redis.call('ZADD', KEYS[2], int(h.deadline), A.id)
end

-- Ends an open hold: spends up to `spent` of it, takes and spends what is beyond it as far as it goes, returns the rest.
local function end_hold(hold, state, spent, overrun, memo)
  spent = math.max(spent, hold.spent)
  local covered = math.min(spent, hold.amount)
  use_up(hold.parts, hold.spent, covered)
  walk(hold.parts, covered, hold.amount, release)
  local extra = 0
  if spent > hold.amount then
    local parts = {}
    extra = take_path(parts, spent - hold.amount, 0)
    use_up(parts, 0, extra)
  end
  local missed = spent - covered - extra + overrun
  for _, account in ipairs(accounts) do
    if missed > 0 then
      add(account, 'overrun', missed)
      post(account, 'overrun', 'world', 'overrun', missed)
    end
  end
  commit(state == 'settled' and 'settle' or state == 'voided' and 'void' or 'expire', A.id, covered + extra, memo)
  redis.call('ZREM', KEYS[2], A.id)
  hold.state, hold.spent, hold.overrun, hold.asked, hold.parts = state, covered + extra, missed, A.asked or '', {}
  write_hold(hold, A.keep_ms)
  return {'OK', now, state, covered + extra, missed}
end

-- Operations ------------------------------------------------------------------------------------------------------------------
-- An operation id is remembered with a digest of its arguments, so that a repeat answers alike and changes nothing.

-- The answer of an earlier call with this id; nil on the first.
local function repeated()
  demand(type(A.id) == 'string' and type(A.digest) == 'string' and whole(A.keep_ms, 1), 'id')
  local record = redis.call('GET', KEYS[1])
  if not record then return nil end
  local digest, answer = string.match(record, '^(%x+) (.*)$')
  if digest ~= A.digest then return {'CONFLICT', now} end
  local reply = cjson.decode(answer)
  return {'OK', now, unpack(reply)}
end

-- Remembers and gives the answer: strings only, so that no number passes through a JSON encoder.
local function remember(...)
  redis.call('SET', KEYS[1], A.digest .. ' ' .. cjson.encode({...}), 'PX', int(A.keep_ms))
  return {'OK', now, ...}
end
