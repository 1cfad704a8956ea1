-- How a pool stands.
-- Answer {OK, now, seats, used, waiting, accounts that wait, spare with a seat, spare waiting, lag, served, draining} | {UNKNOWN, now}
-- lag: by how much service per weight the roots that wait differ; where one waits alone, its accounts.

local packed = redis.call('HGET', KEYS[1], '')
if not packed then return {'UNKNOWN', now} end
read_pool(packed)

local function ends(under)
  local prefix = 'w' .. under
  local last = redis.call('ZREVRANGEBYLEX', KEYS[2], '(' .. prefix .. '\255', '[' .. prefix, 'LIMIT', 0, 1)[1]
  return first(prefix), last and string.sub(last, #prefix + 1)
end

local least, most = ends('/')
if least and least == most then least, most = ends(string.sub(least, 33) .. '/') end
local lag = least and math.floor((tonumber(string.sub(most, 1, 16)) - tonumber(string.sub(least, 1, 16))) / SCALE) or 0
return {
  'OK', now, pool.seats, pool.used, pool.waiting, pool.callers, pool.spare_used, pool.spare_waiting, lag, pool.served, pool.draining,
}
