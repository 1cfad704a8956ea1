"""The log: one line for each event on standard error, times in UTC. Must not know what is logged, but that requests are many."""

from __future__ import annotations

import logging
import sys
import time


class OneLine(logging.Formatter):
    """Whatever stands in a message, it stays one line; only the trace of a bug takes more."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


def set_up(*, verbose: bool) -> None:
    """Log what an operator should see; with `verbose` also a line for each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("proxy").setLevel(logging.INFO)
    logging.getLogger("proxy.server").setLevel(logging.DEBUG if verbose else logging.WARNING)
