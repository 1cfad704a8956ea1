-- Adds to hashes of numbers what one process has counted.   KEYS  1 the process's mark   then the hashes
-- ARGV  1 the number of this addition, larger than of any before   2 how long the mark stays, ms
--       then for each hash: how long it stays (ms), how many fields it may have (0: any), how many numbers of a field stand by themselves,
--       how many fields follow; then each field and what to add to it, packed as doubles: those numbers, then rows of four, of which the
--       first tells one row from another
-- Answer {OK} | {REPEATED}
-- Invariant: an addition is made once; rows of nothing go.

if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then return {'REPEATED'} end

local formats = {}
local function format_of(packed)
  local count = #packed / 8
  formats[count] = formats[count] or '<' .. string.rep('d', count)
  return formats[count]
end

-- A large value is one text and not a field for each row: reading and writing it whole costs a tenth of finding each row.
local function add(there, more, alone)
  local sums, terms, rows = {struct.unpack(format_of(there), there)}, {struct.unpack(format_of(more), more)}, {}
  local count = #there / 8
  for n = 1, math.min(alone, count) do sums[n] = sums[n] + terms[n] end
  for n = alone + 1, count, 4 do rows[sums[n]] = n end
  for n = alone + 1, #more / 8, 4 do
    local at = rows[terms[n]]
    if at then
      for k = 1, 3 do sums[at + k] = sums[at + k] + terms[n + k] end
      if sums[at + 1] == 0 and sums[at + 2] == 0 and sums[at + 3] == 0 then -- the last row takes its place
        for k = 0, 3 do sums[at + k] = sums[count - 3 + k] end
        rows[terms[n]], rows[sums[at]], count = nil, at, count - 4
        if at > count then rows[sums[at]] = nil end
      end
    else
      for k = 0, 3 do sums[count + 1 + k] = terms[n + k] end
      rows[terms[n]], count = count + 1, count + 4
    end
  end
  return struct.pack('<' .. string.rep('d', count), unpack(sums, 1, count))
end

local at = 3
for k = 2, #KEYS do
  local keep_ms, most, alone, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local names, writes, room = {}, {}, count
  for n = 1, count do names[n] = ARGV[at + 2 + 2 * n] end
  local there = redis.call('HMGET', KEYS[k], unpack(names))
  if most > 0 then room = most - redis.call('HLEN', KEYS[k]) end
  for n = 1, count do
    local more = ARGV[at + 3 + 2 * n]
    if not there[n] then room = room - 1 end
    if there[n] or room >= 0 then
      writes[#writes + 1] = names[n]
      writes[#writes + 1] = there[n] and add(there[n], more, alone) or more
    end
  end
  if #writes > 0 then redis.call('HSET', KEYS[k], unpack(writes)) end
  redis.call('PEXPIRE', KEYS[k], keep_ms)
  at = at + 4 + 2 * count
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'OK'}
