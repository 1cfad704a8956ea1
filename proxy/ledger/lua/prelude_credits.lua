-- Credits: grants, what a level can pay, and how an amount is taken, used up and given back.
-- A hold keeps, for each level, parts {amount, source}. A source is 'f' (the level has no limit), 'g:<grant>', or the names of all
-- windows that were charged alongside, joined by '|'; the first of them ('w:') carries the level's totals, further ones are 'c:'.

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
    if account[GRANTS] > 0 then
      local flat = redis.call('HGETALL', account_key(account.level))
      for n = 1, #flat, 2 do
        local id = string.match(flat[n], '^g:(.*)$')
        if id then account.grants[id] = read_grant(id, flat[n + 1]) end
      end
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
  if account[GRANTS] == 0 then return usable, left end
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
      post(account, 'g:' .. id, 'le', g.left)
      expire(account, 'grants', g.left)
      g.expired, g.left = g.expired + g.left, 0
      change_grant(account, g)
    end
  end
end

-- What a level can pay ----------------------------------------------------------------------------------------------------------

-- What the limits leave, and the window that leaves least; nil where there is none. Once known it changes only by what is taken: a verb
-- asks for it only after all that it gives back.
local function limits_left(account)
  if account.turned then return account.left, account.tightest end
  turn_windows(account)
  local least, tightest, current = nil, nil, account.current
  for n = 1, #current do
    local w = current[n]
    local left = w[CREDITS] + w[CARRIED] - w[SPENT] - w[HELD]
    if left < 0 then left = 0 end
    if not least or left < least then least, tightest = left, w end
  end
  account.left, account.tightest = least, tightest
  return least, tightest
end

-- What the level can pay of `want`: exact where it is less, nil where it has no limit.
local function available(account, want)
  local left = limits_left(account)
  if left == nil or left >= want or account[GRANTS] == 0 then return left end
  local _, granted = usable_grants(account)
  return math.min(MAX, left + granted)
end

-- The smallest that any level can pay of `want` (nil: no level has a limit), and that level. Totals must stay whole numbers, too.
local function path_available(want)
  local least, at = nil, nil
  for i = 1, #accounts do
    local account = accounts[i]
    local amount = available(account, want)
    local countable = MAX - account[HELD]
    if account[SPENT] > 0 then countable = countable - account[SPENT] end
    if countable < want and (amount == nil or countable < amount) then amount = math.max(0, countable) end
    if amount ~= nil and (least == nil or amount < least) then least, at = amount, account end
  end
  return least, at
end

-- What the level could pay if nothing were spent or held.
local function capacity(account)
  local least = MAX
  for _, w in ipairs(account.current) do least = math.min(least, math.max(0, w[CREDITS] + w[CARRIED])) end
  if account[GRANTS] > 0 then
    for _, g in pairs(load_grants(account)) do
      if g.state == 'live' and g.effective <= now and now < g.expires then least = math.min(MAX, least + g.left + g.held) end
    end
  end
  return least
end

-- The answer that names the level and the limit that cannot pay.
local function insufficient(account, free, overdue)
  local _, w = limits_left(account)
  return {
    'INSUFFICIENT', now, account.level.number - 1, w and w[KEY] or '', free, account[HELD], capacity(account), w and w[RESETS] or 0,
    overdue,
  }
end

-- What every verb answers that takes: the amount, then the limit of the path that leaves least (level, key, credits, remaining, starts,
-- resets), or -1.
local function taken_and_left(amount)
  local at, remaining, tightest = -1, nil, nil
  for i = 1, #accounts do
    local account = accounts[i]
    local left, w = limits_left(account)
    if left ~= nil then
      if account[GRANTS] > 0 then
        local _, granted = usable_grants(account)
        left = math.min(MAX, left + granted)
      end
      if at < 0 or left < remaining then at, remaining, tightest = i - 1, left, w end
    end
  end
  if at < 0 then return {'OK', now, amount, -1} end
  return {'OK', now, amount, at, tightest[KEY], tightest[CREDITS], remaining, tightest[STARTS], tightest[RESETS]}
end

-- Taking ------------------------------------------------------------------------------------------------------------------------

local function append(parts, level, amount, source)
  local own = parts[level]
  if not own or not own[1] then
    parts[level] = {{amount, source}}
    return
  end
  local last = own[#own]
  if last[2] == source then last[1] = last[1] + amount else own[#own + 1] = {amount, source} end
end

-- Takes from grants what they are known to have, in the order in which they are spent.
local function take_grants(account, amount, parts, level)
  for _, g in ipairs(usable_grants(account)) do
    local piece = math.min(g.left, amount)
    g.left, g.held, amount = g.left - piece, g.held + piece, amount - piece
    change_grant(account, g)
    post(account, 'g:' .. g.id, 'lh', piece)
    append(parts, level, piece, 'g:' .. g.id)
    if amount == 0 then return end
  end
  error('CORRUPT the level has less than it said', 0)
end

-- Takes an amount that the level is known to have, limits first, then grants; appends to the level's parts what came from where.
local function take(account, amount, parts, level)
  if amount == 0 then return end
  account[HELD], account.moved = account[HELD] + amount, true
  local left = limits_left(account)
  if left == nil then
    post(account, 'f', 'wh', amount)
    append(parts, level, amount, 'f')
    return
  end
  local paid = left < amount and left or amount
  if paid > 0 then
    if not account.source then name_windows(account) end
    local current, names = account.current, account.names
    for n = 1, #current do
      current[n][HELD] = current[n][HELD] + paid
      post(account, names[n], 'lh', paid)
    end
    account.left = left - paid
    append(parts, level, paid, account.source)
  end
  if paid < amount then
    expire_grants(account)
    take_grants(account, amount - paid, parts, level)
  end
end

-- Takes up to `want` at every level alike, at least `least`. Returns the amount, or nil, the level that cannot, and what that has.
local function take_path(parts, want, least)
  local free, at = path_available(want)
  local amount = (free and free < want) and free or want
  if amount < least then return nil, at, free end
  for i = 1, #accounts do take(accounts[i], amount, parts, i) end
  return amount
end

-- Using up and giving back --------------------------------------------------------------------------------------------------------

local function grant_of(account, source)
  local id = string.sub(source, 3)
  local g = load_grants(account)[id]
  if not g then error('CORRUPT no grant ' .. id, 0) end
  change_grant(account, g)
  return g
end

-- What was held is used up: `as` is 'spent', or 'given' where another account gets it.
local function use(account, amount, source, as)
  local move = as == 'spent' and 'hs' or 'hg'
  account[HELD], account.moved = account[HELD] - amount, true
  if as == 'spent' then account[SPENT] = account[SPENT] + amount else add(account, as, amount) end
  if source == 'f' then
    post(account, 'f', move, amount)
  elseif string.sub(source, 1, 1) == 'g' then
    local g = grant_of(account, source)
    g.held, g[as] = g.held - amount, g[as] + amount
    post(account, source, move, amount)
  else
    local windows, names = windows_of(account, source)
    for n = 1, #windows do
      local w = windows[n]
      w[HELD], w[SPENT] = w[HELD] - amount, w[SPENT] + amount
      post(account, names[n], move, amount)
    end
  end
end

-- What is returned to a window that is over goes where the window's own remainder went.
local function return_to_past(account, w, name, amount)
  local current, carried = nil, 0
  for _, other in ipairs(account.windows) do
    if other[KEY] == w[KEY] then current = other end
  end
  if w[ROLLOVER] == 1 then carried = math.min(amount, MAX - current[CARRIED])
  elseif w[ROLLOVER] == 2 then carried = math.max(0, math.min(amount, w[CAP] - current[CARRIED])) end
  current[CARRIED] = current[CARRIED] + carried
  expire(account, w[KEY], amount - carried)
  post(account, name, 'he', amount - carried)
  post(account, name, 'hc', carried)
  post(account, 'w:' .. name_of(current), 'bl', carried)
end

-- What was held and not used goes back to where it came from.
local function release(account, amount, source)
  account[HELD], account.moved = account[HELD] - amount, true
  if source == 'f' then
    post(account, 'f', 'hw', amount)
  elseif string.sub(source, 1, 1) == 'g' then
    local g = grant_of(account, source)
    local target, move = 'left', 'hl'
    if g.state == 'revoked' then target, move = 'revoked', 'hr' elseif g.expires <= now then target, move = 'expired', 'he' end
    g.held, g[target] = g.held - amount, g[target] + amount
    if target == 'expired' then expire(account, 'grants', amount) elseif target == 'revoked' then add(account, target, amount) end
    post(account, source, move, amount)
  else
    local windows, names = windows_of(account, source)
    for n = 1, #windows do
      local w = windows[n]
      w[HELD] = w[HELD] - amount
      if w.over then return_to_past(account, w, names[n], amount) else post(account, names[n], 'hl', amount) end
    end
  end
end

-- Does `act` (`use`, as spent, or `release`) to the stretch from..to of each level's parts.
local function walk(parts, from, to, act)
  if to <= from then return end
  for i = 1, #accounts do
    local begins, own = 0, parts[i] or {}
    for n = 1, #own do
      local part = own[n]
      local ends = begins + part[1]
      local amount = (ends < to and ends or to) - (begins > from and begins or from)
      if amount > 0 then act(accounts[i], amount, part[2], 'spent') end
      begins = ends
    end
  end
end
