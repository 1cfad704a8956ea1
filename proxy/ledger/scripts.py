"""The ledger's Lua: one verb per file, the shared prelude in front.

Where the server knows functions (version 7 on) the verbs on budgets are one library, whose parts are made once and which keeps the paths
that it has read, and those on pools another; else each verb is a script of its own, which begins anew at each call and takes far longer.
Names carry a digest of the text, so that two releases can share a server.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

PRELUDE = ("prelude", "prelude_accounts", "prelude_uses", "prelude_rates", "prelude_credits", "prelude_holds")
"""What stands in front of every verb, in this order."""

POOL_PRELUDE = ("pool_prelude", "pool_shares", "pool_tickets")
"""The same for the verbs on pools, which know no account."""

STANDALONE = ("record", "cut_journal", "cut_index", "swap", "fold", "prove", "begin_proof", "publish", "set_mode")
"""Scripts that touch no account and so go without the prelude."""

VERBS = (
    "hold",
    "debit",
    "extend",
    "settle",
    "void",
    "expire",
    "grant",
    "revoke",
    "adjust",
    "transfer",
    "collect",
    "deliver",
    "forgo",
    "set_limits",
    "open",
    "change",
    "enrol",
    "write",
    "audit",
)

POOL_VERBS = ("pool_enter", "pool_charge", "pool_leave", "pool_beat", "pool_configure", "pool_adapt", "pool_state")

LANDS_WHEN_FULL = ("debit", "settle", "void", "expire", "deliver", "pool_charge", "pool_leave", "pool_beat")
"""The ends of holds and of seats: they free what is held, and must land even when the server has no memory left."""

READS = ("audit", "pool_state")


@dataclass(frozen=True, slots=True)
class Script:
    """A piece of Lua, and the command that loads it."""

    source: bytes
    sha: str
    load: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class Library:
    """Verbs as functions, and the command that loads them."""

    prefix: str
    load: tuple[str | bytes, ...]


def _read(name: str) -> str:
    return (resources.files("proxy.ledger") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _prelude(verb: str) -> str:
    return "\n".join(_read(name) for name in (POOL_PRELUDE if verb in POOL_VERBS else PRELUDE))


@cache
def script(name: str, *, flags: bool) -> Script:
    """One verb by itself; `flags` where the server knows script flags (from version 7)."""
    if name in STANDALONE:
        text = _read(name)
    else:
        verb = f"local function verb()\n{_read(name)}\nend\nbegin(given_keys, given_values)\nreturn {_answer(name)}\n"
        text = f"local given_keys, given_values = KEYS, ARGV\n{_prelude(name)}\n{verb}"
    if flags and name in LANDS_WHEN_FULL:
        text = f"#!lua flags=allow-oom\n{text}"
    source = text.encode()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest(), ("SCRIPT", "LOAD", source))


def functions(verb: str = VERBS[0]) -> Library:
    """The library that has a verb."""
    return _library(POOL_VERBS if verb in POOL_VERBS else VERBS)


@cache
def _library(names: tuple[str, ...]) -> Library:
    """Verbs that share a prelude, each as `<prefix><verb>`."""
    verbs = "\n".join(f"verbs.{name} = function()\n{_read(name)}\nend" for name in names)
    text = f"{_prelude(names[0])}\nlocal verbs = {{}}\n{verbs}\n"
    prefix = f"cl_{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]}_"
    registrations = "\n".join(
        f"redis.register_function{{function_name='{prefix}{name}', flags={{{_flag(name)}}}, "
        f"callback=function(keys, values) begin(keys, values) return {_answer(name, f'verbs.{name}()')} end}}"
        for name in names
    )
    source = f"#!lua name={prefix.rstrip('_')}\n{text}{registrations}\n"
    return Library(prefix, ("FUNCTION", "LOAD", "REPLACE", source))


def _answer(name: str, call: str = "verb()") -> str:
    """What a verb's call gives back: of one on budgets, also the move where it made one."""
    return call if name in POOL_VERBS else f"with_move({call})"


def _flag(name: str) -> str:
    if name in READS:
        return "'no-writes'"
    return "'allow-oom'" if name in LANDS_WHEN_FULL else ""
