"""Conversion of options to run config: absolute paths as text, without options that were not given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Settings: TypeAlias = Mapping[str, Any]
"""Settings given as flags, by their dotted path in config.json."""


def given(name: str, value: str | None) -> dict[str, str]:
    """Return a value under its name, or nothing if it is None."""
    return {} if value is None else {name: value}


def absolute(paths: Mapping[str, Path | None]) -> dict[str, str]:
    """Return the paths that are not None as absolute paths."""
    return {name: str(path.expanduser().resolve()) for name, path in paths.items() if path is not None}
