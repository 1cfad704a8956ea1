"""What a ledger server works: in instructions, counted by callgrind, which do not depend on what else the machine does.

Without valgrind it is the server's CPU time, which does, and that is said.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.processes import cpu_s
from tests.support.ledger_server import LedgerServer, running

CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind.out", "--dump-instr=no")
IDLE_S = 10.0


@dataclass(slots=True)
class ServerWork:
    """A server, and how much it has worked since it was last asked."""

    server: LedgerServer
    unit: str
    """`instructions`, or `us`."""
    _pid: int
    _directory: Path
    _dumps: int = 0
    _cpu_s: float = field(default=0.0)
    _asked_s: float = field(default_factory=time.monotonic)
    _idle_per_s: float = field(default=0.0)

    def learn_idle(self) -> None:
        """What the server does when nothing is asked of it; that is left out from then on."""
        self.taken()
        began_s = self._asked_s
        time.sleep(IDLE_S)
        self._idle_per_s = self.taken() / (self._asked_s - began_s)

    def taken(self) -> float:
        """Instructions, or microseconds of CPU, since this was last asked."""
        before_s, self._asked_s = self._asked_s, time.monotonic()
        return self._counted() - self._idle_per_s * (self._asked_s - before_s)

    def _counted(self) -> float:
        if self.unit == "us":
            before_s, self._cpu_s = self._cpu_s, cpu_s(self._pid)
            return 1e6 * (self._cpu_s - before_s)
        subprocess.run(("callgrind_control", "-d", str(self._pid)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        self._dumps += 1
        text = (self._directory / f"callgrind.out.{self._dumps}").read_text()
        found = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
        assert found is not None, "callgrind tells totals"
        return float(found[1])


@contextlib.contextmanager
def working(name: str, binary: Path) -> Iterator[ServerWork]:
    """A server whose work is counted; it looks after itself as seldom as it can, so that only what is asked of it counts."""
    counts = shutil.which("valgrind") is not None and shutil.which("callgrind_control") is not None
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with running(name, binary, directory, under=CALLGRIND if counts else (), options={"hz": "1"}) as server:
            with server.client() as client:
                pid = int(client.info("server")["process_id"])
            work = ServerWork(server, "instructions" if counts else "us", pid, directory)
            work.learn_idle()
            yield work
