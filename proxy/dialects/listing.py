"""Where an upstream tells which models it has, and how to read what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.dialects.document import lenient_decoder

_read_object = lenient_decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Listing:
    """An API's list of models, to be asked for by GET."""

    path: str
    member: str
    """The member of the answer that holds the models."""
    name: str
    """The member of a model that holds its name."""
    query: str = ""
    """Encoded, with its question mark."""
    headers: str = ""
    """What the API wants to be told beside the key; lines with their ends."""
    prefix: str = ""
    """What stands before each name and is no part of it."""

    def read(self, body: bytes) -> Sequence[str]:
        """The names in an upstream's list; none where it cannot be read."""
        document = _read_object(body)
        models = None if document is None else document.get(self.member)
        names = [model.get(self.name) if isinstance(model, dict) else None for model in (models if isinstance(models, list) else ())]
        return [name.removeprefix(self.prefix) for name in names if isinstance(name, str)]
