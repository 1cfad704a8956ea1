"""Where the configuration comes from, and what of it may change while the proxy runs.

Owns the reading of the file together with what the command line lays over it, and the question whether the file has changed.
Reads secrets only to find out whether they are there. Must not know what the settings are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy import config
from proxy.config import Config
from proxy.errors import SetupError

Document = dict[str, Any]
Stamp = tuple[int, int, int]
Overrides = Mapping[str, Mapping[str, object]]
"""By table and key: what the command line says."""

RELOADABLE: Final[Mapping[str, frozenset[str]]] = {
    "listen": frozenset({"drain_timeout_s", "body_max_bytes", "body_timeout_s"}),
    "ledger": frozenset({"slice_tokens", "on_failure", "allow_max"}),
    "admin": frozenset(),
}
"""What may change in these tables while the proxy runs; the other tables may change as a whole."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a configuration is made of, as it travels to the workers: the file's own text, for dates and numbers would not survive JSON."""

    text: str | None
    default: Document
    overrides: Overrides


@dataclass(frozen=True, slots=True)
class Settings:
    """A validated configuration, and what it was made of."""

    origin: Origin
    config: Config


class Source:
    """The configuration file with the command line's overrides, or a document that stands in for a file."""

    def __init__(self, file: Path | None, *, overrides: Overrides, default: Document | None = None) -> None:
        self.file = file
        self._overrides = overrides
        self._default = default or {}
        self._read: Stamp | None = None
        self._noticed: Stamp | None = None

    def read(self) -> Settings:
        """The settings as they are now. Raises SetupError with one line for each problem."""
        self._read = self._stamp()
        name = str(self.file or "command line")
        text = None if self.file is None else config.read_text(self.file)
        origin = Origin(text, self._default, self._overrides)
        settings = Settings(origin, parse(origin, name=name))
        if problems := missing_secrets(settings.config):
            raise SetupError("\n".join(problems))
        return settings

    def has_changed(self) -> bool:
        """Whether the file is another than the one last read, and the same as when this was asked last: nobody writes it now."""
        before, self._noticed = self._noticed, self._stamp()
        return self._noticed is not None and self._noticed != self._read and self._noticed == before

    def _stamp(self) -> Stamp | None:
        if self.file is None:
            return None
        try:
            found = self.file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def parse(origin: Origin, *, name: str) -> Config:
    """The configuration made of all this; `name` stands in the problems. Raises SetupError with one line for each."""
    document = dict(origin.default) if origin.text is None else config.parse(origin.text, source=name)
    for table, values in origin.overrides.items():
        section = document.setdefault(table, {})
        if isinstance(section, dict):  # else validation will say what is wrong with it
            document[table] = {**section, **values}
    return config.validate(document, source=name)


def missing_secrets(settings: Config) -> list[str]:
    """Every secret that the configuration names and that is not there, each a line."""
    named = [
        ("[ledger] password", settings.ledger.password_env, settings.ledger.password_file),
        ("[admin] token", settings.admin.token_env, settings.admin.token_file),
        *((f"admin token {token.name!r}", token.token_env, token.token_file) for token in settings.admin.tokens),
        *((f"upstream {upstream.name!r}", upstream.api_key_env, upstream.api_key_file) for upstream in settings.upstream),
        *((f"key of account {account.id!r}", account.key_env, None) for account in settings.account),
    ]
    problems = []
    for what, env, file in named:
        try:
            config.read_secret(env=env, file=file, what=what)
        except SetupError as error:
            problems.append(str(error))
    return problems


def needing_restart(before: Config, after: Config) -> list[str]:
    """Every key whose new value takes effect only in a new start, each a line."""
    lines = []
    for table, reloadable in RELOADABLE.items():
        old, new = getattr(before, table), getattr(after, table)
        for key in type(old).model_fields:
            if key not in reloadable and getattr(old, key) != getattr(new, key):
                lines.append(f"[{table}] {key} cannot change while the proxy runs; restart it")
    return lines
