"""What the product measures of itself, for Prometheus.

Each process counts into a `Metrics` (`counting`) what `published` names; a worker's `snapshot()` goes to the parent, whose `Fleet`
(`fleet`) adds them up for `render`. Label values are names from the configuration or from a closed list, else `other`; a caller is never
one.
"""

from proxy.metrics.counting import CutReason, DeficitReason, Metrics, Snapshot
from proxy.metrics.fleet import Fleet, render

__all__ = ["CutReason", "DeficitReason", "Fleet", "Metrics", "Snapshot", "render"]
