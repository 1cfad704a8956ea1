-- Adds to hashes of numbers what one process has counted.   KEYS  1 the process's mark   then the hashes
-- ARGV  1 the number of this addition, larger than of any before   2 how long the mark stays, ms
--       then for each hash: how long it stays (ms), how many fields it may have (0: any), how many follow; then each field, and what to
--       add to its numbers, packed as doubles
-- Answer {OK} | {REPEATED}
-- Invariant: an addition is made once; a field keeps as many numbers as it began with.

if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then return {'REPEATED'} end

local formats = {}
local function add(there, more)
  local count = #more / 8
  local format = formats[count] or '<' .. string.rep('d', count)
  formats[count] = format
  local sums, terms = {struct.unpack(format, there)}, {struct.unpack(format, more)}
  for n = 1, count do sums[n] = sums[n] + terms[n] end
  return struct.pack(format, unpack(sums, 1, count))
end

local at = 3
for k = 2, #KEYS do
  local keep_ms, most, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local names, writes, room = {}, {}, count
  for n = 1, count do names[n] = ARGV[at + 1 + 2 * n] end
  local there = redis.call('HMGET', KEYS[k], unpack(names))
  if most > 0 then room = most - redis.call('HLEN', KEYS[k]) end
  for n = 1, count do
    local more = ARGV[at + 2 + 2 * n]
    if not there[n] then room = room - 1 end
    if there[n] or room >= 0 then
      writes[#writes + 1] = names[n]
      writes[#writes + 1] = there[n] and add(there[n], more) or more
    end
  end
  if #writes > 0 then redis.call('HSET', KEYS[k], unpack(writes)) end
  redis.call('PEXPIRE', KEYS[k], keep_ms)
  at = at + 3 + 2 * count
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'OK'}
