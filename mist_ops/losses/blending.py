"""Schedules of the weight alpha of a composite loss over the epochs.

Alpha weights the overlap loss, ``1 - alpha`` the boundary or topology term. It depends only on the epoch, so that a
resumed run continues its schedule.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TypeAlias

from mist_ops.errors import ConfigError, few
from mist_ops.registry import BLENDINGS
from mist_ops.types import Json

Blending: TypeAlias = Callable[..., float]
"""``blending(epoch, epochs, **params)``: alpha of an epoch, counted from 0."""

UNSCHEDULED = 0.5
"""Alpha without a schedule."""

_FIELD = "training.loss.composite_loss_weighting"


@BLENDINGS.register("constant")
def constant(epoch: int, epochs: int, *, value: float = 0.5) -> float:
    """Constant ``value``."""
    return value


@BLENDINGS.register("linear")
def linear(epoch: int, epochs: int, *, init_pause: int = 5, start_val: float = 1.0, end_val: float = 0.0) -> float:
    """``start_val`` for ``init_pause`` epochs, then linear to ``end_val`` in the last epoch."""
    return start_val + _progress(epoch, epochs, init_pause) * (end_val - start_val)


@BLENDINGS.register("cosine")
def cosine(epoch: int, epochs: int, *, init_pause: int = 5, start_val: float = 1.0, end_val: float = 0.0) -> float:
    """``start_val`` for ``init_pause`` epochs, then half a cosine to ``end_val`` in the last epoch."""
    factor = 0.5 * (1.0 + math.cos(math.pi * _progress(epoch, epochs, init_pause)))
    return end_val + (start_val - end_val) * factor


def _progress(epoch: int, epochs: int, pause: int) -> float:
    """0 while the start value is held, 1 in the last epoch.

    A pause as long as the run is shortened by its last epoch, so that the second term of the loss is always used.
    """
    held = max(1, min(pause, epochs - 1))
    return min(1.0, max(0, epoch - held + 1) / max(1, epochs - held))


def weighting(name: str) -> Json:
    """Return the entry of config.json for a schedule with its default parameters.

    Raises:
        ConfigError: The schedule is unknown.
    """
    return completed({"name": name, "params": {}})


def completed(given: Json) -> Json:
    """Add the default parameters that an entry of config.json omits.

    Raises:
        ConfigError: An unknown schedule or parameter, or a value out of range.
    """
    if not {"name"} <= given.keys() <= {"name", "params"}:
        raise _invalid(f"A composite loss weighting has the keys name and params; got {few(sorted(given)) or 'none'}.")
    defaults = _defaults(str(given["name"]))
    params = given.get("params") or {}
    if not isinstance(params, dict):
        raise _invalid(f"params of a composite loss weighting must be an object of names and values; got {params!r}.")
    for name, value in params.items():
        if name not in defaults:
            raise ConfigError(
                f"Composite loss weighting '{given['name']}' has no parameter '{name}'. Known: {', '.join(defaults)}.",
                code="unknown-parameter",
                field=_FIELD,
                found=name,
                expected=list(defaults),
            )
        _check(name, value)
    return {"name": given["name"], "params": {**defaults, **params}}


def _defaults(name: str) -> Json:
    parameters = inspect.signature(BLENDINGS[name]).parameters.values()
    return {known.name: known.default for known in parameters if known.kind is known.KEYWORD_ONLY}


def _check(name: str, value: object) -> None:
    if name == "init_pause":
        if type(value) is not int or value < 0:
            raise _invalid(f"init_pause must be a number of epochs, 0 or more; got {value!r}.", value)
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _invalid(f"{name} must be a number from 0 to 1; got {value!r}.", value)


def _invalid(message: str, found: object = None) -> ConfigError:
    return ConfigError(message, code="config-invalid", field=_FIELD, found=found)


def alpha(entry: Json | None, epoch: int, epochs: int) -> float:
    """Return the weight of the overlap loss in an epoch.

    Args:
        entry: ``training.loss.composite_loss_weighting``; None for 0.5 in all epochs.
        epoch: Index of the epoch, from 0.
        epochs: Epochs of the whole run.
    """
    if entry is None:
        return UNSCHEDULED
    whole = completed(entry)
    return float(BLENDINGS[whole["name"]](epoch, epochs, **whole["params"]))
