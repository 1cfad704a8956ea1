"""Credits on their way from one account to another: taken, noted as in transit, given, acknowledged.

What is taken is given, whoever dies in between: the sweeper delivers what stands in an outbox. Which levels credits leave is
`policy.paths`' to say, how much each of them lets go the scripts' alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.domain import Path
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys, records
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.replies import insufficient
from proxy.ledger.verbs import Verbs, check_amounts
from proxy.policy.paths import levels_left
from proxy.policy.units import check_transfer

log = logging.getLogger(__name__)

GRANTS_MAX = 256
"""Unfinished grants of one account, before it can be given another."""
MERGED_MAX = GRANTS_MAX + GRANTS_MAX // 2
"""The same for what is merged with what expires at the same time: so no number of small gifts keeps away what is owed."""
DELIVERED_MAX = 2 * GRANTS_MAX
"""The same for what was taken already: a transfer may arrive in as many parts as its giver has grants."""
UNCOLLECTED_MS = 40 * 86_400_000
"""For so long what has expired may wait to be collected; older is what a plan did not collect, and stays expired."""


class Transfers:
    """One process's way to move credits."""

    def __init__(self, engine: Engine, directory: Directory, verbs: Verbs) -> None:
        self._engine = engine
        self._directory = directory
        self._verbs = verbs

    async def transfer(
        self,
        source: Path,
        target: Path,
        operation_id: str,
        *,
        credits_nanocredits: int,
        reason: str = "",
        into: str = "",
        expires_at_ms: int | None = None,
        comes_back: bool = False,
    ) -> None:
        check_amounts(credits_nanocredits, least=1)
        if source[-1] == target[-1]:
            raise Refusal("invalid_request", "the giver and the receiver are the same account", account=source[-1])
        plans = [await self._directory.plan_of(await self._directory.settings(path[-1])) for path in (source, target)]
        check_transfer(*plans, giver=source[-1], receiver=target[-1])
        await self._check_room(source[0], target, operation_id, most=MERGED_MAX if into else GRANTS_MAX)
        expires_ms = records.NEVER_MS if expires_at_ms is None else expires_at_ms
        arguments = {
            "credits": credits_nanocredits,
            "reason": reason,
            "target": " ".join(target),
            "into": into,
            "expires": expires_ms,
            "from": _first(source, levels_left(source, target, comes_back=comes_back)),
            "arrive": _first(target, levels_left(target, source)) if comes_back else len(target),
            **({"comes_back": True} if comes_back else {}),
        }
        reply = await self._verbs.operate("transfer", source, operation_id, arguments)
        if reply[0] == "INSUFFICIENT" and not reply[3]:
            message = f"account {source[-1]!r} has no limit to give from, and its grants do not suffice"
            raise Refusal("invalid_request", message, account=source[-1])
        if reply[0] == "INSUFFICIENT":
            refusal = insufficient(source, reply, needed_nanocredits=credits_nanocredits)
            raise Refusal(
                "insufficient_quota",
                f"account {refusal.account!r} has less than that to give",
                hint=None if refusal.account == source[-1] else "What leaves an account counts at every level that it leaves.",
                account=refusal.account,
                limit=refusal.limit,
                needed_nanocredits=credits_nanocredits,
                available_nanocredits=refusal.available_nanocredits,
                resets_at_ms=refusal.resets_at_ms,
            )
        with _in_transit(operation_id):
            await self._deliver(source[0], operation_id, [part.decode() for part in reply[2:]])

    async def forgo(self, source: Path, operation_id: str) -> bool:
        try:
            await self._verbs.operate("forgo", source, operation_id, {})
        except Conflict:
            return False
        return True

    async def collect(self, source: Path, target: Path, operation_id: str, *, expires_at_ms: int, reason: str = "", into: str = "") -> int:
        plans = [await self._directory.plan_of(await self._directory.settings(path[-1])) for path in (source, target)]
        check_transfer(*plans, giver=source[-1], receiver=target[-1])
        arguments = {
            "target": " ".join(target),
            "into": into,
            "expires": expires_at_ms,
            "reason": reason,
            "stale_ms": UNCOLLECTED_MS,
            "from": _first(source, levels_left(source, target)),
            "arrive": len(target),
        }
        reply = await self._verbs.operate("collect", source, operation_id, arguments)
        if len(reply) == 2:
            return 0
        parts = [part.decode() for part in reply[2:]]
        with _in_transit(operation_id):
            await self._deliver(source[0], operation_id, parts)
        return int(parts[4])

    async def _check_room(self, root: str, target: Path, operation_id: str, *, most: int) -> None:
        """Raises Refusal: account_not_found; conflict where the receiver could not take a new transfer, so that nothing is taken for it."""
        receiver = await self._directory.account(target[-1])
        unfinished = sum(1 for grant in receiver.grants if grant.remaining_nanocredits or grant.held_nanocredits)
        if unfinished >= most and not await self._engine.command("EXISTS", keys.operation(root, operation_id)):
            raise too_many_grants(target)

    async def _deliver(self, root: str, operation_id: str, parts: list[str]) -> None:
        """Give the receiver what a transfer took, one grant for each expiry, then take it out of the outbox."""
        target, arrive, reason, into = records.path_of(parts[0]), int(parts[1]), *parts[2:4]
        for n in range(4, len(parts), 2):
            arguments = {
                "credits": int(parts[n]),
                "priority": 0,
                "effective": 0,
                "expires": int(parts[n + 1]),
                "reason": reason,
                "grants_max": DELIVERED_MAX,
                "late": True,
                **({"into": into} if into else {}),
                **({"from": arrive} if arrive < len(target) else {}),
            }
            reply = await self._verbs.operate("grant", target, f"{operation_id}:{n // 2 - 1}", arguments)
            if reply[0] in ("TOO_MANY", "TOO_MUCH"):
                raise too_many_grants(target)
        await self._verbs.delivered(root, operation_id)


@contextmanager
def _in_transit(operation_id: str) -> Iterator[None]:
    """What is taken is given: where the receiver cannot have it yet it waits in the outbox, and that is no refusal to the giver."""
    try:
        yield
    except Refusal as refusal:
        log.warning("transfer %s stays in transit: %s", operation_id, refusal.message)


def _first(path: Path, last_levels: Path) -> int:
    """The number of the first of some last levels of a path, as the scripts count them."""
    return 1 + len(path) - len(last_levels)


def too_many_grants(path: Path) -> Refusal:
    hint = "revoke some, or let them be spent"
    return Refusal("conflict", f"account {path[-1]!r} has {GRANTS_MAX} unfinished grants", account=path[-1], hint=hint)
