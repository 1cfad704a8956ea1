-- Writing: what a call has changed, holds, and the records by which calls are known again.

local function write_rest(account)
  local key = account_key(account.level)
  for name, w in pairs(account.past or {}) do
    if w[HELD] == 0 then redis.call('HDEL', key, 'w:' .. name) else redis.call('HSET', key, 'w:' .. name, write_window(w)) end
  end
  for total, amount in pairs(account.added or {}) do redis.call('HINCRBY', key, total, int(amount)) end
  for id, g in pairs(account.changed_grants or {}) do redis.call('HSET', key, 'g:' .. id, write_grant(g)) end
end

-- Writes everything that changed, and an open hold where there is one. The journal goes first: where it cannot be written, nothing is.
local function commit(verb, amount, memo, open_hold)
  local entry, writes, n = nil, {KEYS[1], open_hold, nil, nil, nil, nil}, open_hold and 2 or 0
  if pieces > 2 or verb == 'settle' then
    local ids = path.text
    if #accounts < #path then
      local own = {}
      for i = 1, #accounts do own[i] = accounts[i].level.id end
      ids = table.concat(own, ' ')
    end
    entry = redis.call('XADD', journal_key(), '*', 't', journal_text(verb, amount, memo), 'i', A[3], 'p', ids)
  end
  for i = 1, #accounts do
    local account = accounts[i]
    if account.moved then
      if account.level.person and account[SPENT] ~= account.spent_before then count_use(account) end
      writes[n + 1], writes[n + 2] = KEYS[account.level.number + 1], write_balance(account)
      n = n + 2
    end
    if account.past or account.added or account.changed_grants then write_rest(account) end
    -- The root needs no index: the whole journal is its own.
    if entry and account.level.number > 1 then redis.call('RPUSH', index_key(account.level), entry) end
  end
  if n > 0 then redis.call('MSET', unpack(writes, 1, n)) end
end

-- Holds -----------------------------------------------------------------------------------------------------------------------

-- Packed as below; while it is open its parts follow: for each level one after the other, whether another follows, amount, source. A
-- level without any says so with an amount of 0.
local HOLD = '<Bsdddddddddd'
local STATE, PATH, H_SPENT, AMOUNT, CREATED, DEADLINE, WANT, LEAST, FIRST = 1, 2, 3, 4, 5, 6, 7, 8, 9
local SEQUENCE, WANTED, EXTENDED = 10, 11, 12 -- while it is open: of its last extension, and the largest spent that one has said
local ASKED, ASKED_OVERRUN, OVERRUN = 10, 11, 12 -- once it has ended: what its settle asked for, and what was booked
local PARTS = 13
local OPEN, SETTLED, VOIDED, EXPIRED = 0, 1, 2, 3
local ENDS = {'settled', 'voided', 'expired'}
local VERBS = {'settle', 'void', 'expire'}

local function read_parts(packed, at)
  local parts, more, amount, source = {nil, nil}, nil, nil, nil
  for i = 1, #path do
    more, amount, source, at = struct.unpack('<Bds', packed, at)
    local own = {{amount, source}}
    while more == 1 do
      more, amount, source, at = struct.unpack('<Bds', packed, at)
      own[#own + 1] = {amount, source}
    end
    parts[i] = amount > 0 and own or {}
  end
  return parts
end

local function write_parts(parts)
  local text = ''
  for i = 1, #path do
    local own = parts[i]
    local count = own and #own or 0
    for n = 1, count do text = text .. struct.pack('<Bds', n < count and 1 or 0, own[n][1], own[n][2]) end
    if count == 0 then text = text .. struct.pack('<Bds', 0, 0, '') end
  end
  return text
end

-- The hold of this call, nil where there is none; without its parts where it is another path's, or has ended.
local function read_hold()
  local packed = stored[1]
  if not packed then return nil end
  local hold = {struct.unpack(HOLD, packed)}
  hold[PARTS] = hold[STATE] == OPEN and hold[PATH] == path.text and read_parts(packed, hold[PARTS]) or nil
  return hold
end

-- The same, for verbs that go by the hold's own path.
local function read_own_hold()
  local hold = read_hold()
  demand(not hold or hold[PATH] == path.text, 'path')
  return hold
end

-- Writes an open hold with all that changed, and when it is over unless it is heard of again.
local function keep_open(verb, amount, hold, ttl_ms)
  hold[DEADLINE] = now + ttl_ms
  commit(verb, amount, nil, struct.pack(HOLD, unpack(hold, 1, EXTENDED)) .. write_parts(hold[PARTS]))
  redis.call('ZADD', root_key(), int(hold[DEADLINE]), A[3])
end

-- What is answered of a hold that has ended.
local function ended(hold)
  return {'OK', now, ENDS[hold[STATE]], hold[H_SPENT], hold[OVERRUN]}
end

-- Ends a hold: spends up to `spent` of it, takes and spends what is beyond it as far as it goes, returns the rest. `hold` is open, or has
-- expired, with all that it spent as its amount.
local function end_hold(hold, state, spent, overrun, keep_ms, memo)
  local before, amount, extra = hold[H_SPENT], hold[AMOUNT], 0
  if hold[STATE] == OPEN then count_ended() end -- what has expired before was counted then
  if spent < before then spent = before end
  local covered = spent < amount and spent or amount
  walk(hold[PARTS], before, covered, use)
  walk(hold[PARTS], covered, amount, release)
  if spent > amount then
    local parts = {}
    extra = take_path(parts, spent - amount, 0)
    walk(parts, 0, extra, use)
  end
  local missed = spent - covered - extra + overrun
  if missed > 0 then
    for _, account in ipairs(accounts) do
      add(account, 'overrun', missed)
      post(account, 'overrun', 'wo', missed)
    end
  end
  commit(VERBS[state], covered + extra, memo)
  redis.call('ZREM', root_key(), A[3])
  hold[STATE], hold[H_SPENT], hold[OVERRUN] = state, covered + extra, missed
  redis.call('SET', KEYS[1], struct.pack(HOLD, unpack(hold, 1, OVERRUN)), 'PX', int(keep_ms))
  return ended(hold)
end

-- Operations ------------------------------------------------------------------------------------------------------------------
-- ARGV  4 a digest of the arguments   5 how long the id is remembered, ms   6 the arguments, a msgpack map
-- An operation id is remembered with the digest, so that a repeat answers alike and changes nothing.

-- The answer of an earlier call with this id; nil on the first, with the arguments.
local function repeated()
  demand(tonumber(A[5]), 'how long')
  if stored[1] then
    local digest, answer = string.match(stored[1], '^(%x+) (.*)$')
    if digest ~= A[4] then return {'CONFLICT', now} end
    return {'OK', now, unpack(cjson.decode(answer))}
  end
  return nil, cmsgpack.unpack(A[6])
end

-- Remembers and gives the answer: strings only, so that no number passes through a JSON encoder.
local function remember(...)
  redis.call('SET', KEYS[1], A[4] .. ' ' .. cjson.encode({...}), 'PX', A[5])
  return {'OK', now, ...}
end
