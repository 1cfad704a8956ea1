-- Records what a hold has spent so far, then reserves up to `want` more at every level.
-- ARGV  4 sequence (1, 2, 3...), spent, want, how long it lives unless it is heard of again (ms)
-- Answer {OK, now, amount, tightest...} | {GONE, now} | {CONFLICT, now} | {UNKNOWN, ...} | {STALE_ACCOUNT, ...} | {STALE_WINDOW, now}
-- Invariant: a sequence takes once. A repeat only debits, and only what no extension before has said: a total beyond the hold was cut to
-- it, so after the extension the same total would count for more.

local sequence, spent, want, ttl_ms = numbers('<dddd')
local hold = read_own_hold()
if not hold or hold[STATE] ~= OPEN then return {'GONE', now} end
if sequence == hold[SEQUENCE] and hold[WANTED] ~= want then return {'CONFLICT', now} end
local no = open_path(true)
if no then return no end

local is_new, before, taken = sequence > hold[SEQUENCE], hold[H_SPENT], 0
if is_new or spent > hold[EXTENDED] then
  hold[H_SPENT] = math.max(before, math.min(spent, hold[AMOUNT]))
  hold[EXTENDED] = math.max(hold[EXTENDED], spent)
  walk(hold[PARTS], before, hold[H_SPENT], use)
end
if is_new then
  if want > 0 and not inactive() then taken = take_path(hold[PARTS], math.min(want, MAX - hold[AMOUNT]), 0) end
  hold[AMOUNT], hold[SEQUENCE], hold[WANTED] = hold[AMOUNT] + taken, sequence, want
end
keep_open('extend', taken, hold, ttl_ms)
return taken_and_left(hold[AMOUNT])
