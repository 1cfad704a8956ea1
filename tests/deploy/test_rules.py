"""The shipped Prometheus files: valid, and alerts that come when they must and stay silent when they must.

The cases stand in `tests/deploy/rules/`; Prometheus's own tool plays them.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from tests.support.prometheus_server import SHIPPED, binary

MANUAL = SHIPPED.parents[1] / "README.md"
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


def links_in(directory: Path) -> list[str]:
    return [link for path in directory.rglob("rules/*.yml") for link in re.findall(r"runbook_url: (.*)", path.read_text())]


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


async def test_links_lead_where_the_manual_is_read(tmp_path: Path) -> None:
    """After the one line that the manual gives every alert has a link that opens from anywhere, and the rules are valid."""
    (line,) = re.findall(r"^sed -i .*runbook_url.*$", MANUAL.read_text(), re.MULTILINE)
    shutil.copytree(SHIPPED, tmp_path / "deploy" / "prometheus")
    process = await asyncio.create_subprocess_exec("sh", "-c", line, cwd=tmp_path)
    assert await process.wait() == 0
    links = links_in(tmp_path)
    assert len(links) == len(alerts())
    assert all(re.fullmatch(r"https://\S+/README\.md#computeledger[a-z]+", link) for link in links)
    code, output = await promtool("check", "config", tmp_path / "deploy" / "prometheus" / "prometheus.yml")
    assert code == 0, output


def test_every_alert_has_a_row_in_the_runbook() -> None:
    """The manual names each one where the alert's link leads, and no other."""
    manual = MANUAL.read_text()
    assert set(re.findall(r'^\| <a id="\w+"></a>`(\w+)` \|', manual, re.MULTILINE)) == alerts()
    assert {name for name in alerts() if f'<a id="{name.lower()}"></a>`{name}`' not in manual} == set()
