"""The proxies that the end-to-end tests ask, their prices and their upstreams.

Prices are small primes in nanocredits for each token (input 3, output 7, cached input 2, reasoning 11) and for each piece, so that every
charge in a test can be worked out by hand and no two mistakes look alike.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.deployment import Deployment, serving
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.speech import Speech
from tests.support.speeches import SPEECHES

TOKENS = """input = "0.003"
cached_input = "0.002"
output = "0.007"
reasoning = "0.011"
"""
PRICES = f"""
[[price]]
model = "*"
{TOKENS}
tool_use = "0.000000029"
image = "0.000000023"
second = "0.000000031"
megabyte = "0.000000037"
character = "0.000000041"

[[price]]
model = "caching-*"
{TOKENS}
cache_write = "0.005"
cache_write_1h = "0.013"
tool_use = "0.000000029"

[[price]]
model = "hearing-*"
{TOKENS}
audio_input = "0.017"
audio_output = "0.019"

[[plan]]
name = "everyone"
limits = [ {{ credits = "1000", window = "day" }} ]
"""
FAMILIES = ("", "caching-", "hearing-")
"""What the names of models begin with. A family that has kinds of its own is held for by the dearest of them: `caching-` 13 for each
token of input, `hearing-` 17, and 19 for each of output."""
MODELS = {
    "tiny": "",
    "short": 'cut = "length"',
    "impatient": "first_byte_timeout_s = 0.3\nidle_timeout_s = 0.3",
    "closed": "",
}
"""Each model is an upstream of its own, named after it, with these settings."""


def upstreams(scripted: ScriptedUpstream, *, closed: int, models: Sequence[str], dialects: Sequence[str]) -> str:
    """The upstreams of these models, speaking these dialects, or every one; what names no model means the first."""
    tables = []
    for name in models:
        served = ", ".join(f'"{family}{name}"' for family in FAMILIES)
        address = f"http://127.0.0.1:{closed}" if name == "closed" else scripted.base_url
        slash = "/" if name == "impatient" else ""  # operators write it or not
        table = ["[[upstream]]", f'name = "{name}"', f'base_url = "{address}{slash}"', f"models = [{served}]", MODELS[name]]
        table += [f"dialects = {json.dumps(dialects)}"] if dialects else []
        table += [f'default_model = "{name}"'] if name == models[0] else []
        tables.append("\n".join(table))
    return "\n\n".join(tables)


class Deployments:
    """The proxies of a session: one for all, and others for what cannot be reached in it, each started when it is needed.

    Those are dialects whose paths are also others', and models that an API cannot name.
    """

    def __init__(self, directory: Path, scripted: ScriptedUpstream, *, closed: int, started: contextlib.AsyncExitStack) -> None:
        self.running: dict[tuple[bool, Sequence[str]], Deployment] = {}
        self._directory = directory
        self._scripted = scripted
        self._closed = closed
        self._started = started

    async def serving(self, speech: Speech | None = None, model: str = "tiny") -> Deployment:
        """The proxy in which this operation reaches this model."""
        alone = speech is not None and speech.alone
        models = (model,) if speech and not speech.names_model and model != "tiny" else tuple(MODELS)
        running = self.running.get((alone, models))
        if running is None:
            directory = Path(tempfile.mkdtemp(dir=self._directory))
            dialects = sorted({speech.dialect for speech in SPEECHES if speech.alone}) if alone else []
            tables = upstreams(self._scripted, closed=self._closed, models=models, dialects=dialects)
            proxy = serving(directory, f"{tables}\n{PRICES}", workers=1 if self.running else 2)
            running = self.running[alone, models] = await self._started.enter_async_context(proxy)
        return running
