"""How plans, prices, limits and accounts are written down in the ledger, and read back.

JSON for what people set, the scripts' own text for grants; `balances` reads what they count. Pure: no I/O.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.domain import (
    AMOUNT_MAX_NANOCREDITS,
    Account,
    AccountId,
    AccountKind,
    AccountStatus,
    Grant,
    Limit,
    LimitState,
    Path,
    Plan,
    Price,
    Totals,
)
from proxy.ledger.balances import StoredBalance, StoredWindow, read_balance
from proxy.policy import windows
from proxy.policy.levels import Step

NEVER_MS = AMOUNT_MAX_NANOCREDITS
"""An expiry that never comes."""

TOTALS = ("spent", "held", "granted", "expired", "given", "revoked", "adjusted", "overrun", "collected")

pack = msgspec.msgpack.Encoder().encode
encode = msgspec.json.Encoder(order="deterministic").encode


def encode_limits(limits: tuple[Limit, ...] | None) -> str:
    """An account's own limits; empty where the plan's apply."""
    return "" if limits is None else encode(limits).decode()


def decode_limits(text: bytes) -> tuple[Limit, ...] | None:
    return msgspec.json.decode(text, type=tuple[Limit, ...]) if text else None


def decode_plan(text: bytes) -> Plan:
    return msgspec.json.decode(text, type=Plan)


def decode_price(text: bytes) -> Price:
    return msgspec.json.decode(text, type=Price)


def decode_levels(text: bytes) -> dict[str, Step]:
    """The index that is kept of each level; none where nothing was noted."""
    return msgspec.json.decode(text, type=dict[str, Step]) if text else {}


def decode_strings(text: bytes) -> list[str]:
    return msgspec.json.decode(text, type=list[str])


def decode_labels(text: bytes) -> dict[str, str]:
    return msgspec.json.decode(text, type=dict[str, str])


def kind_of(stored: bytes | None) -> AccountKind:
    """What an account was opened as; those from before there were agents are none."""
    return "agent" if stored == b"agent" else "account"


def path_of(text: str) -> Path:
    return tuple(AccountId(part) for part in text.split(" "))


def decode_path(text: bytes) -> Path:
    return path_of(text.decode())


def limit_rows(limits: tuple[Limit, ...], now_ms: int) -> tuple[list[list[Any]], int]:
    """The limits as the scripts take them, with the calendar window that holds now; and until when (ms) they may be sent."""
    rows: list[list[Any]] = []
    until_ms = NEVER_MS
    for limit in limits:
        seconds = windows.sliding_window_s(limit) or 0
        index, starts_ms, resets_ms = 0, 0, 0
        if not seconds:
            window = windows.window_at(limit, now_ms)
            index, starts_ms, resets_ms = window.index, window.starts_at_ms, window.resets_at_ms or NEVER_MS
            until_ms = min(until_ms, resets_ms)
        rows.append(
            [
                limit.key,
                limit.credits_nanocredits,
                index,
                starts_ms,
                resets_ms,
                limit.rollover,
                limit.rollover_max_nanocredits,
                seconds,
            ]
        )
    return rows, until_ms


def read_grant(grant_id: str, text: bytes) -> tuple[Grant, str]:
    """A grant as stored, and its state (`live` or `revoked`)."""
    parts = text.decode().split(" ", 12)
    priority, effective, expires, created, credits_, spent, held, left, *_ = (int(part) for part in parts[:11])
    grant = Grant(
        grant_id=grant_id,
        credits_nanocredits=credits_,
        remaining_nanocredits=left,
        held_nanocredits=held,
        spent_nanocredits=spent,
        priority=priority,
        effective_at_ms=effective,
        expires_at_ms=None if expires == NEVER_MS else expires,
        reason=parts[12],
        created_at_ms=created,
    )
    return grant, parts[11]


def totals(fields: Mapping[str, bytes], balance: StoredBalance) -> dict[str, int]:
    """An account's totals: those that decisions read stand in its balance, the others among its fields."""
    rare = {name: int(fields.get(name, b"0")) for name in TOTALS}
    return rare | {"spent": balance.spent, "held": balance.held}


def pairs(flat: list[bytes]) -> dict[str, bytes]:
    return {flat[n].decode(): flat[n + 1] for n in range(0, len(flat), 2)}


def limit_state(limit: Limit, stored: StoredWindow | None, now_ms: int) -> LimitState:
    """A limit as of now: the stored window, or the one that the next hold would open."""
    seconds = windows.sliding_window_s(limit)
    if seconds:
        if stored is not None and now_ms < stored.resets:
            return LimitState(limit, stored.spent, stored.held, stored.carried, stored.starts, stored.resets)
        carried = _carried(limit, stored, 0)
        return LimitState(limit, 0, 0, carried, now_ms, now_ms + seconds * 1000)
    window = windows.window_at(limit, now_ms)
    if stored is not None and stored.index >= window.index:
        resets_ms = None if stored.resets == NEVER_MS else stored.resets
        return LimitState(limit, stored.spent, stored.held, stored.carried, stored.starts, resets_ms)
    skipped = 0 if stored is None else window.index - stored.index - 1
    return LimitState(limit, 0, 0, _carried(limit, stored, skipped), window.starts_at_ms, window.resets_at_ms)


def _carried(limit: Limit, stored: StoredWindow | None, skipped_windows: int) -> int:
    """What a turn would carry over; the same rule as `turn` in the scripts' prelude."""
    if stored is None or limit.rollover == "none":
        return 0
    cap = limit.rollover_max_nanocredits if limit.rollover == "capped" else AMOUNT_MAX_NANOCREDITS
    return min(cap, max(0, stored.left) + skipped_windows * limit.credits_nanocredits)


def rates_row(plan: Plan) -> list[int]:
    """What a level's row ends with where its plan has a rate: requests a minute, and at a time."""
    rates = [plan.requests_per_minute or 0, plan.concurrent_requests or 0]
    return rates if any(rates) else []


def pack_levels(path: Path) -> bytes:
    """A path as the scripts take it, for verbs that take nothing: without limits."""
    return pack([[account, -1, []] for account in path])


def read_level(reply: list[Any], n: int) -> tuple[StoredBalance | None, dict[str, bytes], dict[str, bytes]]:
    """The nth level of what the audit script answers: its balance (None: no such account), its fields, its grants by their ids."""
    packed, flat = reply[3 + 2 * n : 5 + 2 * n]
    fields = pairs(flat)
    grants = {name[2:]: text for name, text in fields.items() if name.startswith("g:")}
    return (read_balance(packed) if packed else None), fields, grants


def read_account(
    path: Path,
    fields: Mapping[str, bytes],
    balance: StoredBalance,
    grant_fields: Mapping[str, bytes],
    plan: Plan,
    now_ms: int,
) -> Account:
    """One level of a path as of now; `available_nanocredits` is what this level alone has left, None where nothing limits it."""
    own_limits = decode_limits(fields.get("limits", b""))
    limits = plan.limits if own_limits is None else own_limits
    states = tuple(limit_state(limit, balance.windows.get(limit.key), now_ms) for limit in limits)
    grants = tuple(_shown_grant(*read_grant(gid, text), now_ms) for gid, text in grant_fields.items())
    usable = sum(g.remaining_nanocredits for g in grants if g.effective_at_ms <= now_ms)
    available = min(s.remaining_nanocredits for s in states) + usable if states else None
    kind = kind_of(fields.get("kind"))
    return Account(
        id=path[-1],
        path=path,
        plan=plan.name,
        status=msgspec.convert(fields["status"].decode(), AccountStatus),
        weight=int(fields["weight"]) or plan.weight,
        labels=decode_labels(fields["labels"]),
        own_limits=own_limits,
        version=int(fields["version"]),
        created_at_ms=int(fields["created"]),
        limits=states,
        grants=tuple(sorted(grants, key=lambda g: (g.created_at_ms, g.grant_id))),
        totals=Totals(**totals(fields, balance)),
        available_nanocredits=available,
        requests_per_minute=plan.requests_per_minute if kind == "account" else None,
        concurrent_requests=plan.concurrent_requests if kind == "account" else None,
        kind=kind,
        running_requests=balance.running,
        unit=plan.unit,
    )


def _shown_grant(grant: Grant, state: str, now_ms: int) -> Grant:
    over = state != "live" or (grant.expires_at_ms is not None and grant.expires_at_ms <= now_ms)
    return dataclasses.replace(grant, remaining_nanocredits=0) if over else grant
