"""What runs without a model: an endpoint with settable speed and seats for `compute-ledger demo` and for tests, and, in `fair_share`,
the rules of sharing on a simulated clock.

The endpoint generates words by a rule instead of thinking, but bills, paces and ends like a real endpoint. It knows nothing of budgets: the
proxy in front of it treats it as any other upstream.
"""

from proxy.simulation.endpoint import SimulatedEndpoint, simulated_endpoint
from proxy.simulation.model import SimulatedModel

__all__ = ["SimulatedEndpoint", "SimulatedModel", "simulated_endpoint"]
