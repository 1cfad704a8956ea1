"""Agents: sub-accounts that act for a person, each with a cap, and the requests by which an agent asks for a higher one.

A person's agents stand below an account of their own, `<person>:agents`: through it all of them are paused, or capped, in one step. Their
ids are made from the opener's, so that nobody can take a name that might be another's. Who may do what is decided above.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from proxy.domain import Account, AccountId, AccountStatus, Limit, Path
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys
from proxy.ledger.changes import PAGE_MAX, REMEMBERED_MS, Page, digest
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine

ID_CHARACTERS_MAX = 128
OPENING_MS = 60_000
"""Longer than any call that opens an agent can take."""

RaiseState = Literal["pending", "approved", "declined", "replaced"]


class Raise(msgspec.Struct, frozen=True):
    """A request of an agent for other limits; one of an agent is pending at a time."""

    request_id: str
    agent: AccountId
    person: AccountId
    limits: tuple[Limit, ...]
    reason: str
    at_ms: int
    state: RaiseState = "pending"
    answered_by: str = ""


def agent_id(opener: AccountId, name: str) -> AccountId:
    """The id of the agent that an account opens under a name. Raises Refusal: invalid_request, where it would be too long."""
    made = AccountId(f"{opener}:agent:{name}")
    if len(made) > ID_CHARACTERS_MAX:
        message = f"the id {made!r} would have more than {ID_CHARACTERS_MAX} characters"
        fits = len(made) - len(name) < ID_CHARACTERS_MAX
        longer = "No name would fit: ask whoever runs this proxy for an account with a shorter id."
        hint = "Take a shorter name." if fits else longer
        raise Refusal("invalid_request", message, hint=hint)
    return made


def switch_of(person: AccountId) -> AccountId:
    """The account that stands between a person and all of its agents."""
    return AccountId(f"{person}:agents")


class Agents:
    """The agents of all people."""

    def __init__(self, engine: Engine, directory: Directory) -> None:
        self._engine = engine
        self._directory = directory
        self._raises = Documents(engine, Raise)

    async def chain(self, path: Path) -> Path:
        """The end of a path from the person on that an account acts for: itself alone where it is no agent."""
        for n in reversed(range(len(path))):
            if (await self._directory.settings(path[n])).kind == "account":
                return path[n:]
        raise Refusal("account_not_found", f"nobody stands above {path[-1]!r}", account=path[-1])

    # --- opening and closing -----------------------------------------------------------------------------------------------------

    async def open(
        self,
        chain: Path,
        name: str,
        *,
        limits: tuple[Limit, ...],
        labels: Mapping[str, str],
        operation_id: str,
        agents_max: int,
    ) -> Account:
        """Open an agent under the end of a chain (see `chain`). Raises Refusal: invalid_request, conflict, account_suspended."""
        person, opener = chain[0], chain[-1]
        agent, index = agent_id(opener, name), keys.agents_of(person)
        settings = await self._directory.settings(person)
        parent = await self._switch(person, settings.plan) if opener == person else opener
        await self._check_new(agent, settings.path[0], operation_id)
        opening = keys.agents_being_opened_by(person)
        await self._engine.command("ZADD", opening, self._engine.now_ms(), agent)  # first, so that nobody takes it for one that broke off
        is_new = await self._engine.command("ZADD", index, 0, agent)
        try:
            if is_new:
                await self._check_room(person, agent, agents_max)
            account = await self._directory.create_account(
                agent, parent=parent, plan=settings.plan, limits=limits, labels=labels, kind="agent", operation_id=operation_id
            )
        except Refusal:
            if is_new:
                await self._engine.command("ZREM", index, agent)
            await self._engine.command("ZREM", opening, agent)
            raise
        # Closed: meanwhile, for this is a late repeat. Else once more, for it may have been taken for one that nobody will open.
        listed = ("ZREM", index, agent) if account.status == "closed" else ("ZADD", index, 0, agent)
        await self._engine.commands(("ZREM", opening, agent), listed)
        return account

    async def _check_room(self, person: AccountId, agent: AccountId, agents_max: int) -> None:
        """Raises Conflict where a person has more agents than it may with this one. Those do not count whose opening broke off: without an
        account, and not begun within the time that it can take."""
        index = keys.agents_of(person)
        if await self._engine.command("ZCARD", index) <= agents_max:
            return
        opening = keys.agents_being_opened_by(person)
        await self._engine.command("ZREMRANGEBYSCORE", opening, "-inf", self._engine.now_ms() - OPENING_MS)
        under_way = {raw.decode() for raw in await self._engine.command("ZRANGE", opening, 0, -1)} | {agent}
        ids = await self._engine.command("ZRANGE", index, 0, -1)
        for start in range(0, len(ids), PAGE_MAX):
            some = [raw.decode() for raw in ids[start : start + PAGE_MAX]]
            are_there = await self._engine.commands(*(("EXISTS", keys.path_of(AccountId(name))) for name in some))
            if broken_off := [name for name, is_there in zip(some, are_there, strict=True) if not is_there and name not in under_way]:
                await self._engine.command("ZREM", index, *broken_off)
        if await self._engine.command("ZCARD", index) > agents_max:
            raise Conflict(f"account {person!r} has {agents_max} agents, as many as it may", hint="Close some.")

    async def _check_new(self, agent: AccountId, root: str, operation_id: str) -> None:
        """Raises Conflict where another operation has opened an account by this name."""
        there, opened = await self._engine.commands(("EXISTS", keys.path_of(agent)), ("EXISTS", keys.operation(root, operation_id)))
        if there and not opened:
            raise Conflict(f"there is or was an account {agent!r}", hint="Take another name.")

    async def _switch(self, person: AccountId, plan: str) -> AccountId:
        """The account above all of a person's agents, opened when it is first needed."""
        switch = switch_of(person)
        try:
            settings = await self._directory.settings(switch)
        except Refusal:
            with contextlib.suppress(Conflict):  # another process was faster
                await self._directory.create_account(
                    switch, parent=person, plan=plan, limits=(), kind="agent", operation_id=f"agents:{switch}"
                )
            settings = await self._directory.settings(switch)
        if settings.kind != "agent" or settings.path[-2:-1] != (person,):
            raise Conflict(f"the name {switch!r} is another account's", hint="Ask whoever runs this proxy.")
        return switch

    async def close(self, path: Path, *, operation_id: str) -> Account:
        """Close an agent and all that it opened: their keys end, and their pending requests with them; again is no change."""
        chain = await self.chain(path)
        account = await self._directory.update_account(path[-1], status="closed", operation_id=operation_id)  # from now on all stand still
        while below := (await self.all(chain, after=None, limit=PAGE_MAX)).items:
            for agent in below:
                with contextlib.suppress(Refusal):  # its opening broke off
                    await self._directory.update_account(agent, status="closed", operation_id=f"{operation_id}:{agent}")
                await self._end(agent, chain[0], operation_id=operation_id)
        await self._end(path[-1], chain[0], operation_id=operation_id)
        return account

    async def _end(self, agent: AccountId, person: AccountId, *, operation_id: str) -> None:
        """Forget what was kept of a closed agent beside its account."""
        with contextlib.suppress(Refusal):
            await self.revoke_keys(agent, but="", operation_id=operation_id)
        if (asked := await self.raise_of(agent)) is not None and asked.state == "pending":
            await self._answer(asked, "declined", answered_by="closed")
        await self._engine.commands(("ZREM", keys.agents_of(person), agent), ("SREM", keys.openers_of(person), agent))

    async def revoke_keys(self, agent: AccountId, *, but: str, operation_id: str) -> None:
        """End all keys of an agent but one (its id, or empty) and those made after it, which a late repeat must leave alone."""
        keys_of_agent = await self._directory.keys(agent)
        made_at_ms = next((key.created_at_ms for key in keys_of_agent if key.key_id == but), None)
        for key in keys_of_agent:
            is_before = made_at_ms is None or key.created_at_ms <= made_at_ms
            if key.revoked_at_ms is None and key.key_id != but and is_before:
                await self._directory.revoke_key(key.key_id, operation_id=f"{operation_id}:{key.key_id}")

    # --- all of them -------------------------------------------------------------------------------------------------------------

    async def all(self, chain: Path, *, after: str | None, limit: int) -> Page[AccountId]:
        """The open agents below the end of a chain, its own and theirs, in the order of their ids."""
        prefix = f"{chain[-1]}:agent"
        start = f"[{prefix}:" if after is None or after < f"{prefix}:" else f"({after}"  # what is before is others'
        count = min(limit, PAGE_MAX)
        found = await self._engine.command("ZRANGEBYLEX", keys.agents_of(chain[0]), start, f"({prefix};", "LIMIT", 0, count)
        ids = tuple(AccountId(raw.decode()) for raw in found)
        return Page(ids, ids[-1] if len(ids) == count else None)

    async def count(self, person: AccountId) -> int:
        """How many open agents a person has, those of its agents among them."""
        return int(await self._engine.command("ZCARD", keys.agents_of(person)))

    async def switch(self, person: AccountId) -> Account | None:
        """The account above all agents of a person; None where it never had any."""
        try:
            return await self._directory.account(switch_of(person))
        except Refusal:
            return None

    async def turn_all(self, person: AccountId, status: AccountStatus, *, operation_id: str) -> Account:
        """Pause all agents of a person, or let them go on."""
        switch = await self._switch(person, (await self._directory.settings(person)).plan)
        return await self._directory.update_account(switch, status=status, operation_id=operation_id)

    async def switch_path(self, person: AccountId) -> Path:
        """The path of the account above all agents of a person."""
        return await self._directory.path(await self._switch(person, (await self._directory.settings(person)).plan))

    # --- agents that open agents -------------------------------------------------------------------------------------------------

    async def may_open(self, person: AccountId, agent: AccountId) -> bool:
        """Whether a person lets one of its agents open agents of its own."""
        return bool(await self._engine.command("SISMEMBER", keys.openers_of(person), agent))

    async def let_open(self, person: AccountId, agent: AccountId, allowed: bool, *, operation_id: str) -> None:
        """Let an agent open agents, or no longer; a late repeat of the operation changes nothing. Raises Conflict."""
        act, fingerprint = f"{operation_id}:opener", digest("let_open", agent, allowed)
        if await self._directory.claim(act, fingerprint):
            return
        await self._engine.command("SADD" if allowed else "SREM", keys.openers_of(person), agent)
        await self._directory.done(act, fingerprint)

    # --- requests for a higher cap -----------------------------------------------------------------------------------------------

    async def ask(self, chain: Path, limits: tuple[Limit, ...], *, reason: str, operation_id: str) -> Raise:
        """Ask the person for other limits of an agent; what it had asked for before is replaced."""
        person, agent = chain[0], chain[-1]
        request_id = f"raise-{hashlib.sha256(operation_id.encode()).hexdigest()[:24]}"
        asked = Raise(request_id, agent, person, limits, reason, self._engine.now_ms())
        there = await self._raises.read(keys.raise_request(request_id))
        if there is not None:
            if (there.agent, there.limits, there.reason) != (agent, limits, reason):
                raise Conflict(f"the id {operation_id!r} was used before with other arguments")
            if there.state != "pending":
                return there
        elif (before := await self.raise_of(agent)) is not None and before.state == "pending":
            await self._answer(before, "replaced", answered_by=agent)
        if there is None:
            await self._raises.swap(keys.raise_request(request_id), None, asked)
        # Also when it is repeated, for whoever asked first may have died here.
        await self._engine.command("SET", keys.raise_of(agent), request_id)
        await self._engine.command("ZADD", keys.raises_of(person), 0, request_id)
        return there or asked

    async def raise_of(self, agent: AccountId) -> Raise | None:
        """The last request of an agent."""
        request_id = await self._engine.command("GET", keys.raise_of(agent))
        return None if request_id is None else await self._raises.read(keys.raise_request(request_id.decode()))

    async def pending(self, person: AccountId, *, after: str | None, limit: int) -> Page[Raise]:
        """The requests that wait for a person's answer."""
        count = min(limit, PAGE_MAX)
        start = "-" if after is None else f"({after}"
        found = await self._engine.command("ZRANGEBYLEX", keys.raises_of(person), start, "+", "LIMIT", 0, count)
        ids = [raw.decode() for raw in found]
        asked = await self._raises.read_all([keys.raise_request(request_id) for request_id in ids])
        return Page(tuple(item for item in asked if item.state == "pending"), ids[-1] if len(ids) == count else None)

    async def find_raise(self, person: AccountId, request_id: str) -> Raise:
        """A request to a person. Raises Refusal: not_found."""
        asked = await self._raises.read(keys.raise_request(request_id))
        if asked is None or asked.person != person:
            raise Refusal("not_found", f"there is no request {request_id!r}")
        return asked

    async def answer(self, asked: Raise, state: Literal["approved", "declined"], *, answered_by: str) -> Raise:
        """Answer a request once; the same answer again is no change. Raises Conflict where it was answered in another way."""
        answered = await self._answer(asked, state, answered_by=answered_by)
        if answered.state != state:
            raise Conflict(f"the request {asked.request_id!r} was {answered.state} before")
        return answered

    async def _answer(self, asked: Raise, state: RaiseState, *, answered_by: str) -> Raise:
        key = keys.raise_request(asked.request_id)
        answered = msgspec.structs.replace(asked, state=state, answered_by=answered_by)
        if asked.state != "pending" or not await self._raises.swap(key, asked, answered, keep_ms=REMEMBERED_MS):
            answered = await self._raises.read(key) or asked
        await self._engine.command("ZREM", keys.raises_of(asked.person), asked.request_id)
        return answered
