"""Paths of accounts: which limits bound what goes from one account to another. Pure."""

from __future__ import annotations

from itertools import takewhile

from proxy.domain import Path


def levels_left(giver: Path, receiver: Path, *, comes_back: bool = False) -> Path:
    """The levels of the giver's path that credits leave on their way: its own, and all above it but those that stand above both.

    What goes from one account to another below a level stays bounded by its limits, for they count when it is spent; what leaves it they
    would never count. A receiver above the giver is left, too, because a grant raises what its own level bounds; unless what it gets
    `comes_back`, after it was taken there.
    """
    above_both = takewhile(lambda pair: pair[0] == pair[1], zip(giver[:-1], receiver[:-1], strict=False))
    shared = sum(1 for _ in above_both)
    if comes_back and receiver == giver[: len(receiver)]:
        shared = len(receiver)
    return giver[shared:]
