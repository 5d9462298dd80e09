"""How options become run config: paths absolute and as text, and what was not given left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Settings: TypeAlias = Mapping[str, Any]
"""Settings given as flags, by their dotted path in config.json."""


def given(name: str, value: str | None) -> dict[str, str]:
    """A value under its name, if there is one."""
    return {} if value is None else {name: value}


def absolute(paths: Mapping[str, Path | None]) -> dict[str, str]:
    """The paths that were given, absolute."""
    return {name: str(path.expanduser().resolve()) for name, path in paths.items() if path is not None}
