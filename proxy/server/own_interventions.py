"""What interventions mean for the caller itself, over self-service: nothing acts on anybody in silence."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from proxy.policy.orders import WEIGHT_UNIT, PolicyName
from proxy.server.admin.models import NoQuery
from proxy.server.admin.views import View
from proxy.server.interventions import Interventions
from proxy.server.own_calls import Asking, OwnCall


class OwnTreatmentView(View):
    """How a request of this caller would be treated now. Without interventions every factor is 1 and every list empty."""

    policies: tuple[PolicyName, ...] = Field(description="Those that act on it")
    proposed: tuple[PolicyName, ...] = Field(description="Dry runs that would")
    effects: tuple[str, ...] = Field(description="What those that act do, in their order")
    price_factor: str = Field(examples=["1.35"])
    weight_factor: str = Field(description="Where requests wait", examples=["0.25"])
    stands_back: bool = Field(description="It takes only seats that nobody else wants")
    tithe_share: str = Field(description="Of what is spent, what is given to the commons on top", examples=["0.1"])


class OwnInterventions:
    """Answers for one's own."""

    def __init__(self, interventions: Interventions) -> None:
        self._interventions = interventions

    @property
    def calls(self) -> Sequence[OwnCall]:
        return (OwnCall("GET", "/interventions", self._show),)

    async def _show(self, asking: Asking) -> OwnTreatmentView:
        asking.query(NoQuery)
        treatment = await self._interventions.look(asking.caller)
        return OwnTreatmentView(
            policies=treatment.applied,
            proposed=treatment.proposed,
            effects=self._interventions.effects(treatment.applied),
            price_factor=f"{treatment.price_percent / 100:.2f}",
            weight_factor=f"{treatment.weight_quarters / WEIGHT_UNIT:g}",
            stands_back=treatment.is_spare,
            tithe_share=f"{treatment.tithe_share:g}",
        )
