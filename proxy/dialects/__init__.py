"""The APIs that are spoken here: bytes in, facts out.

Owns the table of dialects; where two have a path in common, the earlier one's counts. Each dialect has modules named after it; what they
share is in `protocol`, `counting`, `document` and the splitters of streams. Knows no budget, no clock and no connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from proxy.dialects.anthropic import Anthropic
from proxy.dialects.cohere import Cohere
from proxy.dialects.counting import MediaRule
from proxy.dialects.gemini import Gemini
from proxy.dialects.kserve import KServe
from proxy.dialects.llamacpp import LlamaCpp
from proxy.dialects.ollama import Ollama
from proxy.dialects.openai import OpenAI
from proxy.dialects.paths import Found, Paths
from proxy.dialects.protocol import Changes, Dialect, Operation, Reader, Request, ledger_member, utc_time
from proxy.dialects.sglang import SGLang
from proxy.dialects.tei import TEI
from proxy.dialects.tgi import TGI
from proxy.dialects.vllm import VLLM

__all__ = [
    "DIALECTS",
    "Changes",
    "Dialect",
    "Found",
    "MediaRule",
    "Operation",
    "Paths",
    "Reader",
    "Request",
    "dialect_of",
    "ledger_member",
    "utc_time",
]

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (OpenAI(), Cohere(), VLLM(), Anthropic(), Gemini(), Ollama(), LlamaCpp(), TGI(), SGLang(), TEI(), KServe())
    }
)

_EVERY_PATH = Paths(DIALECTS.values())


def dialect_of(path: str) -> Dialect:
    """Whose words to use for a path that is not served: the API that it seems to belong to, else OpenAI's."""
    return _EVERY_PATH.nearest(path) or DIALECTS["openai"]
