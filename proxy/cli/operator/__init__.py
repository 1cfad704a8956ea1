"""Operator verbs over the admin API: `compute-ledger account|key|limit|grant|adjust|transfer|journal|hold|plan|price|pool|event ...`.

Each verb makes its calls and returns what to show: the API's document for `--json`, a table for people. Knows the API by its paths alone.
"""

from proxy.cli.operator.commands import add_operator_commands
from proxy.cli.operator.limits import label, limit

__all__ = ["add_operator_commands", "label", "limit"]
