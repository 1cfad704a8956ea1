"""Who asks for what and when: the synthetic workloads of "Fairness in Serving Large Language Models" (OSDI 2024), and two of our own.

Their numbers are the paper's published ones (`exp_suite.py` of its artifact): 256 tokens in and out, evenly spaced, unless said
otherwise. Chance comes from a seed; the same seed makes the same requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

INPUT_COST: Final = 1
OUTPUT_COST: Final = 2
"""A token that is generated costs twice one that is read, as in the paper; service and demand are counted in these units."""

TURN_S: Final = 60.0
"""Callers that come and go are there and away for as long as this."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it arrives, and the tokens that it will turn out to have."""

    client: str
    number: int
    at_s: float
    input_tokens: int
    output_tokens: int

    @property
    def name(self) -> str:
        return f"{self.client}{self.number}"

    @property
    def cost(self) -> int:
        return INPUT_COST * self.input_tokens + OUTPUT_COST * self.output_tokens


@dataclass(frozen=True, slots=True)
class Client:
    """A caller; `habit` says for people what it does."""

    name: str
    habit: str
    requests: tuple[Request, ...]
    weight: int = 1
    organisation: str = ""

    @property
    def root(self) -> str:
        """Where it shares: in its organisation, or alone."""
        return self.organisation or self.name


@dataclass(frozen=True, slots=True)
class Members:
    """One member of a group: an organisation with its clients, or a client."""

    weight: int
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Callers over a stretch of time. `output_tokens_max`: what a request may say at most, as far as the proxy knows."""

    name: str
    about: str
    seconds: int
    clients: tuple[Client, ...]
    output_tokens_max: int = 512

    @property
    def groups(self) -> dict[str, dict[str, Members]]:
        """Who shares with whom: group -> member -> its weight and its clients. The group without a name is that of organisations, which
        weigh 1 here, and of clients without one."""
        groups: dict[str, dict[str, Members]] = {"": {}}
        for client in self.clients:
            known = groups[""].get(client.root, Members(1 if client.organisation else client.weight, ()))
            groups[""][client.root] = Members(known.weight, (*known.clients, client.name))
            if client.organisation:
                groups.setdefault(client.root, {})[client.name] = Members(client.weight, (client.name,))
        return groups


Rate = Callable[[float], float]
"""Requests a second, at a time."""

Sizes = Callable[[random.Random], tuple[int, int]]


def evenly(rate: Rate, start_s: float, end_s: float) -> Iterator[float]:
    """Arrivals with the gap that the rate asks for; where it is 0, time passes."""
    at_s = start_s
    while at_s < end_s:
        if rate(at_s) > 0:
            yield at_s
            at_s += 1 / rate(at_s)
        else:
            at_s += 1.0


def by_chance(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Arrivals of a Poisson process."""
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        yield at_s
        at_s += chance.expovariate(rate)


def steady(rate: float) -> Rate:
    return lambda at_s: rate


def on_off(rate: float) -> Rate:
    """There for a turn, then away for one."""
    return lambda at_s: rate if at_s // TURN_S % 2 == 0 else 0.0


def sized(input_tokens: int, output_tokens: int) -> Sizes:
    return lambda chance: (input_tokens, output_tokens)


def client(name: str, habit: str, times: Iterator[float], sizes: Sizes, seed: str, *, weight: int = 1, organisation: str = "") -> Client:
    chance = random.Random(seed)
    requests = tuple(Request(name, number, at_s, *sizes(chance)) for number, at_s in enumerate(times))
    return Client(name, habit, requests, weight, organisation)


# --- the workloads -----------------------------------------------------------------------------------------------------------------

EVEN_SIZE: Final = sized(256, 256)


def _even(name: str, about: str, seconds: int, rates: dict[str, tuple[str, Rate]], weights: tuple[int, ...] = ()) -> Workload:
    clients = tuple(
        client(letter, habit, evenly(rate, 0.0, seconds), EVEN_SIZE, "", weight=weights[number] if weights else 1)
        for number, (letter, (habit, rate)) in enumerate(rates.items())
    )
    return Workload(name, about, seconds, clients)


def _steady(*rates: float) -> dict[str, tuple[str, Rate]]:
    return {chr(ord("a") + number): (f"{rate:g}/s", steady(rate)) for number, rate in enumerate(rates)}


def overload(seed: int) -> Workload:
    return _even("overload", "two callers, each wants more than half; one asks twice as often", 360, _steady(1.5, 3))


def overload_multi(seed: int) -> Workload:
    return _even("overload-multi", "eight callers who all want more than their share", 360, _steady(0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6))


def overload_weighted(seed: int) -> Workload:
    rates = _steady(0.8, 0.8, 1.2, 1.6)
    weighted = {name: (f"{habit} weight {number}", rate) for number, (name, (habit, rate)) in enumerate(rates.items(), 1)}
    return _even("overload-weighted", "four callers with weights 1, 2, 3 and 4", 360, weighted, (1, 2, 3, 4))


def proportional(seed: int) -> Workload:
    return _even("proportional", "two callers want less than their share, one wants more", 600, _steady(0.25, 0.5, 1.5))


def on_off_less(seed: int) -> Workload:
    rates = {"a": ("0.5/s on, off", on_off(0.5)), "b": ("2/s", steady(2))}
    return _even("on_off_less", "one comes and goes and wants less than half; one is greedy", 600, rates)


def on_off_overload(seed: int) -> Workload:
    rates = {"a": ("2/s on, off", on_off(2)), "b": ("3/s", steady(3))}
    return _even("on_off_overload", "one comes and goes and wants more than half; one is greedy", 600, rates)


def increase(seed: int) -> Workload:
    rates = {"a": ("0.5/s", steady(0.5)), "b": ("0.2 to 2/s", lambda at_s: 0.2 + 1.8 * at_s / 600)}
    return _even("increase", "one asks steadily for less than half, one ever more", 600, rates)


def dist_shift(seed: int) -> Workload:
    def in_turn(first: Rate, second: float, third: float) -> Rate:
        return lambda at_s: first(at_s) if at_s < 300 else second if at_s < 600 else third

    rates = {"a": ("on/off, 1, 0.5/s", in_turn(on_off(0.5), 1, 0.5)), "b": ("2, 1, 1.5/s", in_turn(steady(2), 1, 1.5))}
    return _even("dist_shift", "both change their habits every five minutes", 900, rates)


def _short_and_long(name: str, about: str, seed: int, short: tuple[int, int], long: tuple[int, int]) -> Workload:
    clients = (
        client("a", f"8/s, {short[0]}+{short[1]}", by_chance(8, 600, random.Random(f"{seed} a")), sized(*short), ""),
        client("b", f"1.5/s, {long[0]}+{long[1]}", by_chance(1.5, 600, random.Random(f"{seed} b")), sized(*long), ""),
    )
    return Workload(name, about, 600, clients)


def poisson_short_long(seed: int) -> Workload:
    return _short_and_long("poisson_short_long", "many short requests against few long ones, at random", seed, (64, 64), (256, 256))


def poisson_short_long_2(seed: int) -> Workload:
    return _short_and_long("poisson_short_long_2", "many that read much against few that write much", seed, (512, 32), (32, 512))


def chat(seed: int) -> Workload:
    """Ours: sizes nobody can foresee, so that estimates are wrong in both directions."""

    def sizes(chance: random.Random) -> tuple[int, int]:
        return min(1024, 1 + int(chance.lognormvariate(4.5, 0.9))), min(1024, 1 + int(chance.lognormvariate(5.0, 1.0)))

    rates = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
    clients = tuple(
        client(name, f"{rate:g}/s", by_chance(rate, 600, random.Random(f"{seed} {name}")), sizes, f"{seed} sizes {name}")
        for name, rate in zip("abcdef", rates, strict=True)
    )
    return Workload("chat", "ours: six callers, sizes that nobody can foresee, at random", 600, clients, output_tokens_max=1024)


def organisations(seed: int) -> Workload:
    """Ours: a small organisation beside a large one of the same weight."""
    times = [evenly(steady(rate), 0.0, 600) for rate in (1.5, 0.5, 0.5, 0.5, 1.5)]
    clients = tuple(
        client(name, f"{'1.5' if name in 'ae' else '0.5'}/s, {organisation}", at, EVEN_SIZE, "", organisation=organisation)
        for name, organisation, at in zip("abcde", ("small", "large", "large", "large", "large"), times, strict=True)
    )
    return Workload("organisations", "ours: one account of its own against four of one organisation", 600, clients)


WORKLOADS: Final[dict[str, Callable[[int], Workload]]] = {
    "overload": overload,
    "overload-multi": overload_multi,
    "overload-weighted": overload_weighted,
    "proportional": proportional,
    "on_off_less": on_off_less,
    "on_off_overload": on_off_overload,
    "increase": increase,
    "poisson_short_long": poisson_short_long,
    "poisson_short_long_2": poisson_short_long_2,
    "dist_shift": dist_shift,
    "chat": chat,
    "organisations": organisations,
}
