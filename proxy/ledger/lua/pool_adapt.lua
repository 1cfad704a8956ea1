-- Moves the number of seats between two bounds, by what one worker's requests met: the rule is `moved` in `proxy/policy/adaptive_seats.py`,
-- which says why; here it stands once more.
-- ARGV  3 answers that kept up   4 percent of the present number that are left   5 whether the upstream said no: 1 or 0   6 the number that a
--       cut is taken back to, or 0   7 least   8 most   9 when the first of those requests was sent, ms
-- Answer {OK, now, seats, when they were last cut, ms, or 0} | {UNKNOWN, now}
-- Invariant: nobody loses a seat; with fewer than are taken, none is given until enough leave. Several workers that hear the same no cut
-- once. What was found out stands among the records, under '#found'.

local CUT_PERCENT, AGAIN_ANSWERS, QUIET_ANSWERS, BLOCK_MIN, LOOK_TURNS, LOOK_MOVES = 70, 5, 100, 8, 100, 3

local answers, percent, is_no, back_to = number(3), number(4, 1, 100), number(5, 0, 1) == 1, number(6)
local least, most, sent = number(7), number(8), number(9)
local rows = redis.call('HMGET', KEYS[1], '', '#found')
if not rows[1] then return {'UNKNOWN', now} end
read_pool(rows[1])
local seats = pool.seats
local cut, refused_at, quiet, look_after, looking, look_from = 0, 0, 0, 0, 0, 0
if rows[2] then cut, refused_at, quiet, look_after, looking, look_from = cmsgpack.unpack(rows[2]) end
local is_new = sent > cut

if answers > 0 and not is_no then
  if refused_at > 0 then quiet = quiet + answers end
  if quiet >= QUIET_ANSWERS then refused_at, quiet = 0, 0 end
  if looking > 0 then
    if is_new then looking = looking - 1 end
    if looking == 0 then seats = math.max(seats, look_from) end
  elseif look_after <= answers and seats > 1 then
    look_after, looking, look_from, cut = LOOK_TURNS * math.max(BLOCK_MIN, seats), LOOK_MOVES, seats, now
    seats = seats - math.floor(seats / 2)
  else
    look_after = math.max(0, look_after - answers)
    if refused_at == 0 or seats + 1 < refused_at then seats = seats + 1 end
  end
elseif is_new and back_to > 0 then
  seats = math.max(seats, back_to)
elseif is_new and is_no then
  local is_first = refused_at == 0 or quiet + answers >= AGAIN_ANSWERS
  cut, refused_at, quiet, looking = now, seats, 0, 0
  seats = is_first and seats - 1 or math.floor(seats * CUT_PERCENT / 100)
elseif is_new then
  cut, look_after, looking = now, LOOK_TURNS * math.max(BLOCK_MIN, seats), 0
  seats = math.floor(seats * percent / 100)
end

pool.seats = math.max(least, math.min(most, seats))
redis.call('HSET', KEYS[1], '#found', cmsgpack.pack(cut, refused_at, quiet, look_after, looking, look_from))
begin_step()
commit()
return {'OK', now, pool.seats, cut}
