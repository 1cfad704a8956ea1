"""Over thousands of simulated seconds: the bound holds, shares follow weights, no seat idles, and the command says so in 80 columns."""

from __future__ import annotations

import json
import random
import zlib
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.cli import main
from proxy.simulation.fair_share import POLICIES, WORKLOADS, Client, Figures, Record, Request, Server, Workload, figures_of, play
from proxy.simulation.fair_share.chart import chart
from proxy.simulation.fair_share.measures import Bound, average_difference, bound_of, ideal_service, jain
from proxy.simulation.fair_share.png import picture
from proxy.simulation.fair_share.policies import FairShare

SEED = 42
SERVER = Server()


@cache
def record(workload: str, policy: str) -> Record:
    made = WORKLOADS[workload](SEED)
    return play(made, POLICIES[policy](made, SERVER), SERVER)


@cache
def figures(workload: str, policy: str) -> Figures:
    return figures_of(record(workload, policy), ideal=ideal_service(record(workload, "fair share")))


def promise(played: Record) -> Bound:
    bound = bound_of(played)
    assert bound is not None
    return bound


def every(seconds: float, *, client: str, since_s: int = 0, until_s: int, tokens: int = 256) -> tuple[Request, ...]:
    """Requests of one size at even distances."""
    count = int((until_s - since_s) / seconds)
    return tuple(Request(client, number, since_s + number * seconds, tokens, tokens) for number in range(count))


def got(played: Record, client: str, since_s: int, until_s: int) -> int:
    service = played.service[client]
    return service[until_s] - service[since_s]


# --- what must hold ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_bound_holds_in_every_workload(workload: str) -> None:
    """Of any two callers that wait, at any moment and over any stretch of time, in what they are charged and in what they are served."""
    bound = promise(record(workload, "fair share"))
    assert bound.at_once_gap <= bound.at_once_bound
    assert bound.charged_gap <= bound.charged_gap_bound
    assert bound.service_gap <= bound.service_gap_bound


@settings(max_examples=15, deadline=None)
@example(seed=2948, seats=1, memory=0)  # an organisation that weighs less than any client
@given(seed=st.integers(0, 2**32), seats=st.integers(1, 24), memory=st.sampled_from((0, 0, 5000)))
def test_the_bound_holds_whoever_comes(seed: int, seats: int, memory: int) -> None:
    """Random callers, sizes, weights and organisations, a random number of seats."""
    chance = random.Random(seed)
    clients = []
    for name in "abcdef"[: chance.randrange(2, 7)]:
        times = sorted(chance.uniform(0, 90) for _ in range(chance.randrange(5, 90)))
        sizes = [(chance.randrange(1, 400), chance.randrange(1, 513)) for _ in times]
        requests = tuple(Request(name, number, at_s, *size) for number, (at_s, size) in enumerate(zip(times, sizes, strict=True)))
        clients.append(Client(name, "", requests, chance.choice((1, 1, 2, 4)), chance.choice(("", "north", "south"))))
    workload = Workload("random", "", 90, tuple(clients))
    played = play(workload, FairShare(workload, seats, memory=memory), Server(seats))
    assert promise(played).holds
    assert played.idle_s == pytest.approx(0)


@pytest.mark.parametrize(
    "workload", ["overload", "overload-multi", "overload-weighted", "on_off_overload", "poisson_short_long", "poisson_short_long_2"]
)
def test_differences_are_less_than_half_of_first_come_s(workload: str) -> None:
    """By the published measure, where callers want more than there is."""
    assert figures(workload, "fair share").average_difference < figures(workload, "first come").average_difference / 2


def test_shares_follow_the_weights_once_a_minute_of_overload_has_passed() -> None:
    """From then on each of weights 1, 2, 3 and 4 gets its part within 5 %."""
    played = record("overload-weighted", "fair share")
    since_then = {client.name: got(played, client.name, 60, 360) / client.weight for client in played.workload.clients}
    even = sum(got(played, client.name, 60, 360) for client in played.workload.clients) / 10
    assert all(abs(share / even - 1) < 0.05 for share in since_then.values()), since_then


@pytest.mark.parametrize("workload", WORKLOADS)
def test_fairness_costs_no_work(workload: str) -> None:
    """No seat stands empty while anyone waits, and the seats do at least 0.98 of the work that they do first come, first served; in
    tokens too, but where that favours the requests that are quick to read."""
    fair, first = figures(workload, "fair share"), figures(workload, "first come")
    assert fair.idle_s == pytest.approx(0)
    assert fair.busy >= 0.98 * first.busy
    if workload != "poisson_short_long_2":
        assert fair.tokens_per_s >= 0.98 * first.tokens_per_s


def test_a_modest_caller_hardly_waits() -> None:
    """Beside a caller that alone wants all there is, those below their share wait a second or two; in one line for all, a minute."""
    fair, first = figures("proportional", "fair share").waits_s, figures("proportional", "first come").waits_s
    assert max(fair["a"], fair["b"]) < 2
    assert min(first["a"], first["b"]) > 60


def returning(memory: int) -> Record:
    """One caller is greedy all the time, an equally greedy one comes after five minutes."""
    clients = (
        Client("a", "", every(1 / 3, client="a", since_s=300, until_s=600)),
        Client("b", "", every(1 / 3, client="b", until_s=600)),
    )
    workload = Workload("returning", "", 600, clients)
    return play(workload, FairShare(workload, SERVER.seats, memory=memory), SERVER)


def test_a_caller_back_from_idle_gets_no_more_than_its_share() -> None:
    """From the first half minute on: never more than half, and no less once its first requests have run."""
    played = returning(0)
    for since_s in range(300, 570, 10):
        mine, others = got(played, "a", since_s, since_s + 30), got(played, "b", since_s, since_s + 30)
        assert mine / (mine + others) < 0.55
    assert abs(got(played, "a", 330, 600) / got(played, "b", 330, 600) - 1) < 0.05


def test_memory_is_what_a_caller_may_catch_up() -> None:
    """With a memory of 40,000 units the same caller gets that much more, within the bound, and is even from then on."""
    ahead = [got(played, "a", 300, 600) - got(played, "b", 300, 600) for played in (returning(0), returning(40_000))]
    assert abs(ahead[1] - ahead[0] - 40_000) < 4000
    played = returning(40_000)
    assert abs(got(played, "a", 420, 600) / got(played, "b", 420, 600) - 1) < 0.05
    assert promise(played).holds


def test_organisations_come_first() -> None:
    """One account of its own gets what four of one organisation get together, and those four get alike, however often they ask."""
    played = record("organisations", "fair share")
    parts = {client.name: got(played, client.name, 60, 600) for client in played.workload.clients}
    assert abs(parts["a"] / sum(parts[name] for name in "bcde") - 1) < 0.05
    assert max(parts[name] for name in "bcde") / min(parts[name] for name in "bcde") < 1.05


def test_the_same_seed_is_the_same_world() -> None:
    """What the table shows can be shown again."""
    made = WORKLOADS["chat"](7)
    again = WORKLOADS["chat"](7)
    assert made == again != WORKLOADS["chat"](8)
    assert play(made, FairShare(made, 20), SERVER).service == play(again, FairShare(again, 20), SERVER).service


# --- the measures ------------------------------------------------------------------------------------------------------------------


def test_the_simulated_server_is_as_fast_as_the_published_one() -> None:
    """Saturated with 256 in and 256 out it does 780 to 900 tokens a second."""
    assert 780 < figures("overload", "first come").tokens_per_s < 900


def test_average_difference_by_hand() -> None:
    """Of two that ask for 20 a second each, one is served 15 and one 5: the second is 10 behind, the first not at all."""
    workload = Workload("by hand", "", 120, (Client("a", "", ()), Client("b", "", ())))
    played = Record(workload, SERVER, FairShare(workload, 1))
    played.demand = {name: [20 * second for second in range(121)] for name in "ab"}
    played.service = {"a": [15 * second for second in range(121)], "b": [5 * second for second in range(121)]}
    assert average_difference(played) == 10
    played.demand["b"] = [6 * second for second in range(121)]
    assert average_difference(played) == 1, "it is behind by what it asked for at most"


def test_what_is_due_is_max_min_fair() -> None:
    """Of 120 a second, callers who want 1000, 50 and 10 are due 60, 50 and 10."""
    workload = Workload("by hand", "", 1, tuple(Client(name, "", ()) for name in "abc"))
    played = Record(workload, SERVER, FairShare(workload, 1))
    played.demand = {"a": [0, 1000], "b": [0, 50], "c": [0, 10]}
    played.service = {"a": [0, 120], "b": [0, 0], "c": [0, 0]}
    assert ideal_service(played) == {"a": 60, "b": 50, "c": 10}


def test_jain_s_index() -> None:
    """1 where all are equal, 1/n where one has everything."""
    assert jain([2, 2, 2]) == 1
    assert jain([5, 0, 0, 0]) == 0.25


# --- the command and its pictures --------------------------------------------------------------------------------------------------


def test_the_overview_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Every workload has its rows, the bound held in all, the seed is told, and no line is wider than 80 columns."""
    assert main(["simulate", "fair-share"]) == 0
    out = capsys.readouterr().out
    assert all(out.count(f"\n{name} ") == 2 for name in WORKLOADS)
    assert f"The bound held in {len(WORKLOADS)} of {len(WORKLOADS)} workloads" in out
    assert f"seed {SEED}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_one_workload_in_detail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Callers, policies and the bound; the picture also as a file."""
    assert main(["simulate", "fair-share", "--workload", "chat", "--seed", "7", "--png", str(tmp_path / "chat.png")]) == 0
    out = capsys.readouterr().out
    assert "The bound holds" in out
    assert "seed 7" in out
    assert all(f"\n{policy} " in out for policy in POLICIES)
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    assert (tmp_path / "chat.png").read_bytes().startswith(b"\x89PNG")


def test_figures_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` says everything, the seed included."""
    assert main(["simulate", "fair-share", "--workload", "overload", "--seed", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["seed"] == 3
    assert said["workloads"]["overload"]["fair share"]["bound_holds"] is True
    assert said["workloads"]["overload"]["first come"]["bound"] is None


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One clear line that names those there are."""
    assert main(["simulate", "fair-share", "--workload", "everything"]) == 1
    assert "overload" in capsys.readouterr().err


def test_the_chart_draws_lines_where_they_belong() -> None:
    """The line that grows ends at the top, the other stays at the bottom, each with its name."""
    lines = chart("title", {"a": [0, 50, 100], "b": [0, 0, 0]}, top=100, cells=30, rows=5, paint=lambda text, number: text)
    assert lines[0].startswith("title")
    assert lines[1].rstrip().endswith(" a")
    assert lines[5].rstrip().endswith(" b")
    assert {len(line) for line in lines} == {30}


def test_the_picture_is_a_valid_png() -> None:
    """Signature, checksums, and as many pixels as the header says."""
    data = picture({"left": {"a": [0.0, 5.0]}, "right": {"b": [0.0, 0.0]}})
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == int.from_bytes(data[at + 8 + length : at + 12 + length])
        chunks[kind] = body
        at += 12 + length
    width, height = int.from_bytes(chunks[b"IHDR"][:4]), int.from_bytes(chunks[b"IHDR"][4:8])
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + 3 * width)
