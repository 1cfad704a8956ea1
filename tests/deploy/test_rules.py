"""The shipped Prometheus files: valid, and alerts that come when they must and stay silent when they must.

The cases stand in `tests/deploy/rules/`; Prometheus's own tool plays them.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.support.prometheus_server import SHIPPED, binary

CASES = Path(__file__).parent / "rules"
RULES = sorted((SHIPPED / "rules").glob("*.yml"))
ALERT = re.compile(r"- alert: (\w+)")


async def promtool(*arguments: object) -> tuple[int | None, str]:
    """Exit code and output."""
    command = (binary("promtool"), *map(str, arguments))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def alerts() -> set[str]:
    return {name for path in RULES for name in ALERT.findall(path.read_text())}


async def test_the_configuration_and_the_rules_are_valid() -> None:
    """`promtool check config` follows `rule_files`, so it reads all of them."""
    code, output = await promtool("check", "config", SHIPPED / "prometheus.yml")
    assert code == 0, output
    assert f"{len(RULES)} rule files found" in output


async def test_alerts_come_when_they_must() -> None:
    """Every case of every file, among them one in which nothing is wrong and no alert may even be pending."""
    code, output = await promtool("test", "rules", *sorted(CASES.glob("*.test.yml")))
    assert code == 0, output


def test_every_alert_has_a_case() -> None:
    """In which it fires: its name stands in an expected sample."""
    played = "".join(path.read_text() for path in CASES.glob("*.test.yml"))
    assert {name for name in alerts() if f'alertname="{name}"' not in played} == set()


def test_every_alert_says_what_to_do() -> None:
    """It has a severity that is known and leads to its own row of the runbook."""
    for path in RULES:
        for text in path.read_text().split("- alert: ")[1:]:
            name = text.partition("\n")[0]
            assert re.search(r"severity: (critical|warning|info)\}", text), name
            assert f"runbook_url: README.md#{name.lower()}\n" in text, name


def test_every_alert_has_a_row_in_the_runbook() -> None:
    """The manual names each one where the alert's link leads, and no other."""
    manual = (SHIPPED.parents[1] / "README.md").read_text()
    assert set(re.findall(r'^\| <a id="\w+"></a>`(\w+)` \|', manual, re.MULTILINE)) == alerts()
    assert {name for name in alerts() if f'<a id="{name.lower()}"></a>`{name}`' not in manual} == set()
