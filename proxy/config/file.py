"""The whole file, and what must hold between its tables. All problems are reported at once, each on a line with its place."""

from __future__ import annotations

import datetime as dt
import tomllib
from typing import Any, Self

from pydantic import ValidationError, model_validator

from proxy import domain
from proxy.config.book import AccountRow, LevelRow, PlanRow, PriceRow
from proxy.config.interventions import Interventions
from proxy.config.sections import Admin, Agents, Commons, Compat, Equality, LedgerSection, Listen, SelfService
from proxy.config.upstreams import Opaque, Upstream
from proxy.config.values import Section, milliseconds
from proxy.errors import SetupError


class Config(Section):
    """The whole file."""

    listen: Listen = Listen()
    ledger: LedgerSection = LedgerSection()
    admin: Admin = Admin()
    compat: Compat = Compat()
    self_service: SelfService = SelfService()
    agents: Agents = Agents()
    commons: Commons = Commons()
    equality: Equality = Equality()
    intervention: Interventions = Interventions()
    upstream: tuple[Upstream, ...] = ()
    opaque: tuple[Opaque, ...] = ()
    price: tuple[PriceRow, ...] = ()
    level: tuple[LevelRow, ...] = ()
    plan: tuple[PlanRow, ...] = ()
    account: tuple[AccountRow, ...] = ()

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        problems = [*_repeated("upstream", [u.name for u in self.upstream]), *_repeated("plan", [p.name for p in self.plan])]
        problems += _repeated("account", [a.id for a in self.account])
        problems += _repeated("opaque", [f"{method} {o.path}" for o in self.opaque for method in o.methods])
        upstreams = {u.name for u in self.upstream}
        problems += [f"opaque {o.path}: there is no upstream {o.upstream!r}" for o in self.opaque if o.upstream not in upstreams]
        problems += _repeated("price", [_dated(price) for price in self.price])
        problems += [*_repeated("level", [level.name for level in self.level]), *self._mixed_units()]
        plans = {p.name for p in self.plan}
        earlier: set[str] = set()
        for account in self.account:
            if account.plan is not None and account.plan not in plans:
                problems.append(f"account {account.id}: there is no plan {account.plan!r}")
            if account.parent is not None and account.parent not in earlier:
                problems.append(f"account {account.id}: its parent {account.parent!r} must stand before it")
            earlier.add(account.id)
        if self.commons.account is None and (scavenging := [p.name for p in self.plan if p.scavenge]):
            problems.append(f"plan {scavenging[0]}: scavenge needs an account in [commons] that pays")
        if self.commons.account is None and (flowing := [p.name for p in self.plan if p.expired_to_commons]):
            problems.append(f"plan {flowing[0]}: expired_to_commons needs an account in [commons]")
        moving = [name for name in ("tithe", "dividend") if getattr(self.intervention, name).mode == "on"]
        if self.commons.account is None and moving:
            problems.append(f"intervention {moving[0]}: it needs an account in [commons]")
        if self.account and not self.plan:
            problems.append("accounts need at least one [[plan]]")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _mixed_units(self) -> list[str]:
        """Accounts that would count in another unit than the account above them."""
        unit_of_plan = {plan.name: plan.unit for plan in reversed(self.plan)}
        default = self.plan[0].unit if self.plan else domain.CREDITS
        units = {a.id: default if a.plan is None else unit_of_plan.get(a.plan, default) for a in self.account}
        return [
            f"account {a.id}: counts in {units[a.id]}, its parent {a.parent} in {units[a.parent]}; all accounts of a tree count in one unit"
            for a in self.account
            if a.parent in units and units[a.id] != units[a.parent]
        ]


Admin.model_rebuild()
Config.model_rebuild()


def _repeated(table: str, names: list[str]) -> list[str]:
    return [f"{table} {name!r} stands twice" for name in sorted({n for n in names if names.count(n) > 1})]


def _dated(price: PriceRow) -> str:
    """A row's model and its instant, whichever way that is written."""
    at_s = milliseconds(price.effective) / 1000
    return f"{price.model} from {dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat(timespec='milliseconds')}"


def parse(text: str, *, source: str) -> dict[str, Any]:
    """The document that a text is. Raises SetupError where it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{source}: {error}") from error


def validate(document: dict[str, Any], *, source: str) -> Config:
    """The configuration in a parsed document. Raises SetupError with one line for each problem."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        lines = (f"{source}: {_place(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise SetupError("\n".join(lines)) from None


def _place(location: tuple[int | str, ...]) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    return f"{place}: " if place else ""


def default_document(*, upstream_url: str) -> dict[str, Any]:
    """What `serve --upstream URL` runs on without a file: one upstream, one price row for every model, one plan."""
    return {
        "upstream": [{"name": "upstream", "base_url": upstream_url}],
        "price": [{"model": "*", "input": "1", "output": "4"}],
        "plan": [{"name": "everyone", "limits": [{"credits": "10", "window": "day"}]}],
    }
