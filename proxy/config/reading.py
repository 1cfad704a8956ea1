"""What stands outside the file: other files, and secrets, which come only by `*_env` or `*_file` and are never printed."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.errors import SetupError


def read_text(file: Path) -> str:
    """What a file says. Raises SetupError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file}: {error}") from error


def read_secret(*, env: str | None, file: Path | None, what: str) -> str | None:
    """The secret that a pair of `*_env` and `*_file` keys names; None where neither is set.

    Raises SetupError where the variable or file is missing or empty: an empty secret would be no secret.
    """
    if env is not None:
        value = os.environ.get(env, "").strip()
        if not value:
            raise SetupError(f"{what}: the environment variable {env} is not set")
        return value
    if file is not None:
        try:
            value = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{what}: cannot read {file}: {error}") from error
        if not value:
            raise SetupError(f"{what}: {file} is empty")
        return value
    return None
