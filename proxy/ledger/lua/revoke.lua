-- Takes back what a grant has left; what a hold keeps of it stays with the hold.
-- ARGV  6 grant, reason
-- Answer {OK, now} | {CONFLICT, now} | {NO_GRANT, now} | {UNKNOWN, ...}
-- Invariant: what is revoked moves from left to revoked, once.

local before, asked = repeated()
if before then return before end
demand(type(asked.grant) == 'string', 'grant')
local no = open_path(false)
if no then return no end
local account = narrow()
local g = load_grants(account)[asked.grant]
if not g then return {'NO_GRANT', now} end
if g.state == 'live' then
  change_grant(account, g)
  add(account, 'revoked', g.left)
  post(account, 'g:' .. g.id, 'lr', g.left)
  local amount = g.left
  g.state, g.revoked, g.left = 'revoked', g.revoked + g.left, 0
  commit('revoke', amount, asked.reason)
end
return remember()
