"""What a verb has to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shown:
    """The API's document, for scripts, and the same for people; or chunks of a file."""

    document: Any = None
    text: str = ""
    note: str = ""
    """What a person should know beside the answer; goes to standard error."""
    chunks: Iterable[bytes] = ()
    chunks_only: bool = False


def more(page: dict[str, Any]) -> str:
    """A note where a list was longer than what is shown."""
    return "there are more; --max shows them" if page["next"] is not None else ""
