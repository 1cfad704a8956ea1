"""The listener for callers: aiohttp's low-level server, which costs less than half a router's way, with our own words for what it refuses.

A request that the HTTP parser refuses never reaches the handler; it is answered here, in JSON, and not logged, for anyone can send it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy import config
from proxy.dialects import DIALECTS
from proxy.errors import Refusal
from proxy.server import answers

LINE_MAX_BYTES = 8190
LINGERING_S = 2.0
"""How long the rest of a refused body is read and dropped, so that the client sees the answer instead of a reset."""

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_quiet = logging.getLogger(f"{__name__}.http")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Listener(web.Server):
    """Answers what arrives on the proxy's port; serve it with `web.ServerRunner`."""

    def __init__(self, handle: Handle, section: config.Listen) -> None:
        self._idle_timeout_s = section.header_timeout_s
        super().__init__(handle, handler_cancellation=True)

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            loop=self._loop,
            keepalive_timeout=self._idle_timeout_s,
            lingering_time=LINGERING_S,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=LINE_MAX_BYTES,
            auto_decompress=False,
            access_log=None,  # None is how aiohttp itself turns it off
            logger=_quiet,
        )


class _Connection(RequestHandler):
    __slots__ = ("_is_paused",)

    def __init__(self, manager: Listener, **options: Any) -> None:
        self._is_paused = False
        super().__init__(manager, **options)

    def pause_reading(self) -> None:
        self._is_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Asked for at every read of a body, of which hardly any was ever paused."""
        if self._is_paused:
            self._is_paused = False
            super().resume_reading(resume_parser)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer for what cannot be parsed as HTTP."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so it can only be broken off")
        refusal = Refusal("invalid_request", "The request cannot be read as HTTP/1.1.")
        response = answers.refused(refusal, DIALECTS["openai"], request_id=secrets.token_hex(16), now_ms=0)
        response.force_close()
        return response
