"""Fair share on a simulated clock: the pool's own rules, published workloads, and the usual ways of sharing beside them.

Owns callers, a server with seats, and what is measured; the rules themselves are `policy`'s, the same code that decides for real
requests. Thousands of seconds pass in a few. Knows nothing of the proxy or the ledger.
"""

from proxy.simulation.fair_share.measures import Bound, Figures, figures_of, ideal_service
from proxy.simulation.fair_share.run import POLICIES, Record, Server, play
from proxy.simulation.fair_share.workloads import WORKLOADS, Client, Request, Workload

__all__ = [
    "POLICIES",
    "WORKLOADS",
    "Bound",
    "Client",
    "Figures",
    "Record",
    "Request",
    "Server",
    "Workload",
    "figures_of",
    "ideal_service",
    "play",
]
