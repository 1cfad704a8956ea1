"""What the operating system asks of the parent: to stop, to stop at once, to read its configuration again.

Must not know how any of it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator


class Signals:
    """SIGTERM or SIGINT once: stop; twice: at once. SIGHUP: read the configuration again, or stop where the terminal is gone."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.stop_now = asyncio.Event()
        self.reload = asyncio.Event()
        self._on_a_terminal = sys.stderr.isatty()
        self._starting: asyncio.Task[object] | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Signals are taken as long as the context lasts."""
        loop = asyncio.get_running_loop()
        asked = {signal.SIGTERM: self._asked_to_stop, signal.SIGINT: self._asked_to_stop, signal.SIGHUP: self._hung_up}
        for number, act in asked.items():
            loop.add_signal_handler(number, act)
        try:
            yield
        finally:
            for number in asked:
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Being asked to stop in here cancels the task that is in here: what is still starting has nothing to drain."""
        self._starting = asyncio.current_task()
        try:
            yield
        finally:
            self._starting = None

    def _asked_to_stop(self) -> None:
        if self.stop.is_set():
            self.stop_now.set()
        elif self._starting is not None:
            self._starting.cancel()
        self.stop.set()

    def _hung_up(self) -> None:
        if self._on_a_terminal and not os.isatty(sys.stderr.fileno()):
            self._asked_to_stop()  # the window was closed: nobody wants a proxy that runs on unseen
        else:
            self.reload.set()
