"""How equal use is, through the front doors of a whole proxy: people ask, two workers count, operators and people see.

Input costs 3 nanocredits a token and output 7; each person's answers are as long as they ask for.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import inequalipy
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment, nanocredits, serving, until
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIGURATION = """
[equality]
labels = ["country"]

[[upstream]]
name = "tiny"
base_url = "{upstream}"
seats = 50

[[price]]
model = "*"
input = "0.003"
output = "0.007"

[[plan]]
name = "free"
limits = [ {{ credits = "1000", window = "day" }} ]

[[plan]]
name = "paid"
weight = 3
limits = [ {{ credits = "1000", window = "day" }} ]
"""
FREE, PAID, IDLE = 24, 22, 6
WINDOWS = ("day", "week", "month", "half_life")


async def answer_as_asked(exchange: Exchange) -> None:
    await exchange.answer(answers.chat("words", usage=answers.usage(5, exchange.document["max_tokens"])))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> AsyncIterator[tuple[Deployment, list[Caller]]]:
    """Free people, paid people of one organisation, and free ones who never ask; the others have, each for more than the one before."""
    directory: Path = tmp_path_factory.mktemp("town")
    scripted.automatic = answer_as_asked
    async with serving(directory, CONFIGURATION.format(upstream=scripted.base_url)) as deployment:
        await deployment.admin("POST", "accounts", {"id": "org", "plan": "paid"})
        free = [await deployment.open_account(plan="free", id=f"free-{n}", labels={"country": "IN"}) for n in range(FREE)]
        paid = [await deployment.open_account(plan="paid", id=f"paid-{n}", parent="org") for n in range(PAID)]
        for n in range(IDLE):
            await deployment.admin("POST", "accounts", {"id": f"idle-{n}", "plan": "free"})
        people = [*free, *paid]
        await asyncio.gather(*(ask(person, 10 + 5 * n) for n, person in enumerate(people)))
        await asyncio.gather(*(person.settled() for person in people))
        yield deployment, people
    scripted.forget()


async def ask(person: Caller, output_tokens: int) -> int:
    body = {"model": "tiny", "max_tokens": output_tokens, "messages": [{"role": "user", "content": "hello"}]}
    async with person.post("/v1/chat/completions", body) as answer:
        return int(answer.status)


async def told(deployment: Deployment, served_nanocredits: int, query: str = "") -> Any:
    """What is told of a window once all that was served has been counted."""
    return await until(
        lambda: deployment.admin("GET", f"equality?{query}"),
        lambda answer: nanocredits(answer["served"]) == served_nanocredits and answer["accounts"] == FREE + PAID + IDLE,
    )


async def test_what_is_told_is_what_people_used(town: tuple[Deployment, list[Caller]]) -> None:
    """Every window, against the accounts themselves: Gini by another library, groups by their sums; the idle count, and nobody twice."""
    deployment, people = town
    accounts = [await deployment.account(person.id) for person in people]
    spent = [nanocredits(account["spent"]) for account in accounts]
    weights = [account["weight"] for account in accounts]
    x = [use / weight for use, weight in zip(spent, weights, strict=True)] + [0.0] * IDLE
    gini = float(inequalipy.gini(x, weights=weights + [1] * IDLE))
    for window in WINDOWS[:3]:
        answer = await told(deployment, sum(spent), f"window={window}&group=plan")
        assert (answer["active"], answer["zero"]) == (FREE + PAID, {"idle": IDLE, "denied": 0})
        assert answer["gini"]["low"] <= gini <= answer["gini"]["high"] < answer["gini"]["low"] + 0.0217
        shares = {group["name"]: (group["accounts"], group["use_share"]) for group in answer["groups"]}
        assert shares == {
            "free": (FREE + IDLE, pytest.approx(sum(spent[:FREE]) / sum(spent))),
            "paid": (PAID, pytest.approx(sum(spent[FREE:]) / sum(spent))),
        }
        assert answer["least_served"] is None or 0 < answer["least_served"] <= 1
    aged = await deployment.admin("GET", "equality?window=half_life")
    assert aged["gini"]["low"] <= gini + 1e-6
    assert gini - 1e-6 <= aged["gini"]["high"]  # all was used within seconds, so it has aged alike


async def test_groups_are_told_by_label_and_organisation(town: tuple[Deployment, list[Caller]]) -> None:
    """The organisation's people are one group, whoever is in no organisation another; the organisation itself is nobody."""
    deployment, _ = town
    by_label = await deployment.admin("GET", "equality?group=country")
    assert {group["name"]: group["accounts"] for group in by_label["groups"]} == {"IN": FREE, "": PAID + IDLE}
    by_root = await deployment.admin("GET", "equality?group=organisation")
    assert {group["name"]: group["accounts"] for group in by_root["groups"]} == {"org": PAID, "": FREE + IDLE}


async def test_a_scrape_shows_the_same(town: tuple[Deployment, list[Caller]]) -> None:
    """Within some seconds, by window and plan, and with its age."""
    deployment, _ = town
    answer = await deployment.admin("GET", "equality?group=plan")
    samples = await until(lambda: scraped(deployment), lambda found: found.get(("accounts", "day", "active")) == FREE + PAID)
    assert samples["gini", "day", "low"] == pytest.approx(answer["gini"]["low"])
    assert samples["jain", "day"] == pytest.approx(answer["jain"])
    assert samples["accounts", "day", "entitled"] == FREE + PAID + IDLE
    assert samples["group_use_share", "day", "paid"] == pytest.approx(answer["groups"][0]["use_share"])
    assert samples["lorenz", "day", "1"] == 1
    assert 0 <= samples["equality_age_seconds",] < 60


async def scraped(deployment: Deployment) -> dict[tuple[str, ...], float]:
    """Samples by name, then window, then the other label."""
    found = {}
    for family in text_string_to_metric_families(await deployment.metrics()):
        for sample in family.samples:
            labels = dict(sample.labels)
            values = [labels.pop("window"), labels.pop("plan", "")] if "window" in labels else []
            found[(sample.name.removeprefix("compute_ledger_"), *filter(None, [*values, *labels.values()]))] = sample.value
    return found


async def test_people_learn_their_own_place(town: tuple[Deployment, list[Caller]]) -> None:
    """Whoever asked most stands at the top of its kind, whoever asked least near the bottom; agents tell their person's."""
    _, people = town
    places = []
    for person in (people[0], people[FREE - 1]):
        async with person.deployment.client.get(
            f"{person.deployment.proxy_url}/ledger/v1/account", headers={"Authorization": f"Bearer {person.key}"}
        ) as answer:
            places.append((await answer.json())["place"]["day"])
    least, most = places
    assert least["percentile"][0] == 10  # six idle people of 52 are below
    assert most["percentile"][1] == 100
    assert float(least["of_average"]) < 1 < float(most["of_average"])


async def test_a_recount_finds_no_drift_where_nothing_was_lost(town: tuple[Deployment, list[Caller]]) -> None:
    """It counts everybody, and changes no figure by more than a double's last digits."""
    deployment, _ = town
    before = await deployment.admin("GET", "equality?group=plan")
    report = await until(lambda: deployment.admin("POST", "equality/recount"), lambda report: not report["running"])
    assert {drift["window"]: (drift["people"], drift["use"]) for drift in report["drifts"]} == dict.fromkeys(WINDOWS, (0, "0"))
    after = await deployment.admin("GET", "equality?group=plan")
    assert after["drift"] == 0
    for exact in ("accounts", "active", "zero", "served", "deficit", "groups_suppressed"):
        assert after[exact] == before[exact]
    for close in ("gini", "theil", "shares", "jain", "atkinson"):
        assert after[close] == pytest.approx(before[close])


async def test_denied_people_are_told_apart_from_idle_ones(town: tuple[Deployment, list[Caller]]) -> None:
    """Whoever asks with no budget at all is denied: the deficit says why, and everybody else stands where they stood."""
    deployment, _ = town
    before = await deployment.admin("GET", "equality")
    poor = await deployment.open_account("0.000000001", plan="free")
    assert await ask(poor, 10) in (402, 429)
    answer = await until(lambda: deployment.admin("GET", "equality"), lambda answer: answer["zero"]["denied"] == 1)
    assert (answer["accounts"], answer["active"]) == (before["accounts"] + 1, before["active"])
    assert nanocredits(answer["deficit"]) > 0
    assert sum(map(nanocredits, answer["deficit_reasons"].values())) == nanocredits(answer["deficit"])
    assert answer["least_served"] == 0
    assert [low <= high for low, high in itertools.pairwise(share for _, share in answer["lorenz"])]
