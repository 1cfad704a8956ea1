"""Paths that upstreams do serve and that no price could cover: why each of them is refused.

Only so that whoever asks learns the reason; what is served stands in the dialects' operations, and any other path is refused as well.
"""

from __future__ import annotations

from collections.abc import Mapping

_LATER = "what it starts goes on, and costs, after the request has ended"
_STORED = "it keeps input at the upstream that later requests use unseen, and all callers share the upstream's account"
_OTHERS = "all callers share the upstream's account, so it would show or change what is others'"

_OPERATORS = "it manages the upstream's models, which is the operator's; a rule of [[opaque]] would open it"

_WHY_BY_PREFIX: Mapping[str, str] = {
    "/api/blobs": _OPERATORS,
    "/api/copy": _OPERATORS,
    "/api/create": _OPERATORS,
    "/api/delete": _OPERATORS,
    "/api/ps": _OPERATORS,
    "/api/pull": _OPERATORS,
    "/api/push": _OPERATORS,
    "/api/web_fetch": "it has a cost of its own",
    "/api/web_search": "it has a cost of its own",
    "/v1/assistants": _LATER,
    "/v1/chat/completions": _OTHERS,
    "/v1/chatkit": _LATER,
    "/v1/containers": _LATER,
    "/v1/conversations": _STORED,
    "/v1/evals": _LATER,
    "/v1/fine-tunes": _LATER,
    "/v1/fine_tuning": _LATER,
    "/v1/messages/batches": _LATER,
    "/v1/organization": _OTHERS,
    "/v1/organizations": _OTHERS,
    "/v1/projects": _OTHERS,
    "/v1/realtime": "it lets a client talk to the upstream past this proxy",
    "/v1/responses": _OTHERS,
    "/v1/skills": _STORED,
    "/v1/threads": _LATER,
    "/v1/uploads": _STORED,
    "/v1/vector_stores": _STORED,
    "/v1/videos": _LATER,
}


def why_unpriced(path: str) -> str | None:
    """Why a path is refused although upstreams know it; None where it is none of these."""
    return next((why for prefix, why in _WHY_BY_PREFIX.items() if path == prefix or path.startswith(prefix + "/")), None)
