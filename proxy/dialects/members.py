"""Members of a request, read strictly: each is of the kind that its API says, or the request is refused.

What all dialects share; the names and meanings of members are a dialect's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from proxy.dialects.protocol import MODEL_NAME_LENGTH_MAX
from proxy.errors import Refusal


def wrong(name: str, expected: str) -> Refusal:
    """The refusal of a member that is missing or of another kind than expected."""
    return Refusal("invalid_request", f"{name!r} must be {expected}.")


def not_priced(message: str) -> Refusal:
    """The refusal of what would cost in a way that no price here covers."""
    return Refusal("invalid_request", message, hint="It is not priced here; leave it out.")


def check_spelling(members: Iterable[str], known: Collection[str]) -> None:
    """See that no known name is spelt in another case: servers written in Go would obey it, beside the member or instead of it.

    Raises Refusal: invalid_request.
    """
    for name in members:
        if name not in known and (spelt := name.casefold()) in known:
            raise Refusal("invalid_request", f"{name[:64]!r} must be spelt {spelt!r}.")


def objects(document: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """A member that is a list of objects, or absent. Raises Refusal: invalid_request."""
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or [element for element in value if not isinstance(element, dict)]:
        raise wrong(name, "a list of objects")
    return value


def whole(document: Mapping[str, Any], name: str, maximum: int) -> int | None:
    """A member that is a whole number from 1 on, or absent. Raises Refusal: invalid_request."""
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= maximum:  # by type, for a bool is no number
        raise wrong(name, f"a whole number from 1 to {maximum}")
    return value


def flag(document: Mapping[str, Any], name: str) -> bool:
    """A member that is true or false; absent it is false. Raises Refusal: invalid_request."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(name, "true or false")
    return bool(value)


def model_name(document: Mapping[str, Any]) -> str:
    """The model that a request names. Raises Refusal: invalid_request."""
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "a model's name")
    if len(model) > MODEL_NAME_LENGTH_MAX or not model.isprintable():
        raise wrong("model", f"of at most {MODEL_NAME_LENGTH_MAX} printable characters")
    return model
