"""`compute-ledger demo` tells its whole story on a machine with nothing else, in the time it is given, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from tests.support.deployment import ROOT


def test_demo_tells_the_whole_story(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything that the story claims has happened, or the demo would have said that it should not have."""
    place = tmp_path_factory.mktemp("demo")
    finished = subprocess.run(
        [sys.executable, "-m", "proxy", "demo", "--seconds", "26"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(place), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    said = finished.stdout
    assert finished.returncode == 0, said + finished.stderr
    assert "Nora has 60 words' worth left" in said
    assert "She received 60 words and was charged for 60." in said
    assert '"code":"insufficient_quota"' in said
    assert "13 were answered, 37 told to come back (budget_in_flight)" in said
    assert re.search(r"Greta got (1\d|2\d|3[0-2])%, her share is 20%", said)
    assert "It would act, because" in said
    assert re.search(r"Gini went from 0\.\d\d to 0\.\d\d, and no seat stayed empty", said)
    assert "the same, to the last digit" in said
    assert "the books balance" in said
    assert "export OPENAI_API_KEY=cl-" in said
    assert "\x1b[" not in said, "only a terminal gets colours"
    assert list(place.iterdir()) == []


def test_demo_on_a_port_that_is_taken() -> None:
    """A port that someone else has is one clear line and exit code 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finished = subprocess.run(
            [sys.executable, "-m", "proxy", "demo", "--port", str(taken.getsockname()[1]), "--seconds", "8"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert finished.returncode == 1
    assert "cannot listen on" in finished.stderr
    assert "Traceback" not in finished.stderr
