"""Budgets in units of a level on a whole deployment: the real ledger, two workers, the admin API, the journal and the audit."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment, serving, until
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
PRICES = {"model": "leveled", "input": "1", "output": "5", "level": "small", "effective": "2026-01-01"}


async def cost(caller: Caller) -> Decimal:
    """What one request costs, by the header; 0 where it was refused, which costs nothing."""
    async with caller.post(CHAT, HELLO) as answer:
        await answer.read()
        return Decimal(answer.headers.get("X-Ledger-Cost", "0"))


async def until_it_costs(caller: Caller, amount: Decimal) -> None:
    """On whichever worker: so often in a row that all were asked."""
    await until(lambda: asyncio.gather(*(cost(caller) for _ in range(6))), lambda costs: set(costs) == {amount})


async def test_a_budget_in_units_keeps_its_worth_while_prices_fall(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """The journal names the index; a cheaper model of the level counts for every worker within a second, and the books balance."""
    upstream.automatic = answers.generating(input_tokens=30, output_tokens=10)
    await deployment.admin("POST", "prices", PRICES)
    await deployment.admin("PUT", "plans/units", {"unit": "small", "limits": [{"credits": "1", "window": "ever"}]})
    caller = await deployment.open_account(plan="units")
    in_credits = await deployment.open_account("1")
    nominal = await cost(in_credits)
    await until_it_costs(caller, nominal / 2)  # the index is 2
    await deployment.admin("POST", "prices", {**PRICES, "model": "leveled-cheaper", "input": "0.1", "output": "0.5"})
    assert (await deployment.admin("GET", "levels/small"))["index"] == "0.2"
    await until_it_costs(caller, nominal * 5)
    assert await cost(in_credits) == nominal

    account: dict[str, Any] = await deployment.account(caller.id)
    journal = await deployment.admin("GET", f"accounts/{caller.id}/journal?limit=500")
    memos = [entry["memo"] for entry in journal["items"] if entry["verb"] == "settle"]
    assert memos[0].endswith("level:small@0.2")
    assert memos[-1].endswith("level:small@2")
    by_index = {index: sum(memo.endswith(f"@{index}") for memo in memos) for index in ("2", "0.2")}
    assert Decimal(account["spent"]) == by_index["2"] * nominal / 2 + by_index["0.2"] * nominal * 5
    assert (account["unit"], account["held"]) == ("small", "0")
    code, output = await deployment.audit()
    assert code == 0, output


def file_of(upstream: ScriptedUpstream, *, tiny: str, cheap: bool, level: str = "") -> str:
    """A configuration whose level has a dear model and, where it is so, a cheap one; `tiny` is of no level."""
    rows = [("tiny", tiny, ""), ("dear", "1", 'level = "small"'), *([("cheap", "0.1", 'level = "small"')] if cheap else [])]
    prices = "".join(f'[[price]]\nmodel = "{model}"\ninput = "{rate}"\noutput = "{rate}"\n{more}\n' for model, rate, more in rows)
    plan = '[[plan]]\nname = "units"\nunit = "small"\nlimits = [ { credits = "1000", window = "ever" } ]\n'
    return f'[[upstream]]\nname = "up"\nbase_url = "{upstream.base_url}"\n{prices}{plan}{level}'


async def read_again(deployment: Deployment, before: str, after: str) -> None:
    """Have the proxy take over a changed file."""
    text = deployment.config_file.read_text()
    assert before in text
    deployment.config_file.write_text(text.replace(before, after))
    deployment.process.send_signal(signal.SIGHUP)


async def test_a_row_that_leaves_the_file_makes_nobody_poorer(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Over a reload and over a restart, in every worker; until the level is told to rise, which then lasts, too."""
    upstream.automatic = answers.generating(input_tokens=30, output_tokens=10)
    cost_at_1 = Decimal(40) / 10**6
    first, without = (file_of(upstream, tiny=tiny, cheap=cheap) for tiny, cheap in (("1", True), ("2", False)))
    async with serving(tmp_path, first) as deployment:
        caller = await deployment.open_account()
        await until_it_costs(caller, 10 * cost_at_1)
        await read_again(deployment, first, without)
        await until_it_costs(caller, 20 * cost_at_1)
    async with serving(tmp_path, without) as deployment:
        caller = await deployment.open_account(id="user:again")
        await until_it_costs(caller, 20 * cost_at_1)
        rises_at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
        cure = f'[[level]]\nname = "small"\nrises_at = {rises_at.isoformat(timespec="milliseconds")}\n'
        await read_again(deployment, without, without + cure)
        await until_it_costs(caller, 2 * cost_at_1)
        assert (await deployment.admin("GET", "levels/small"))["index"] == "1"
