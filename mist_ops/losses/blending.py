"""How the weight alpha of a composite loss changes over the epochs, as plain numbers.

Alpha weighs the overlap loss, ``1 - alpha`` the boundary or topology term. It follows from the epoch alone, so that a
resumed run goes on where it was.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TypeAlias

from mist_ops.errors import ConfigError
from mist_ops.registry import BLENDINGS
from mist_ops.types import Json

Blending: TypeAlias = Callable[..., float]
"""``blending(epoch, epochs, **params)``: alpha of an epoch, counted from 0. Defaults are those of the schedule."""

UNSCHEDULED = 0.5
"""Alpha without a schedule."""


@BLENDINGS.register("constant")
def constant(epoch: int, epochs: int, *, value: float = 0.5) -> float:
    """The same in each epoch."""
    return value


@BLENDINGS.register("linear")
def linear(epoch: int, epochs: int, *, init_pause: int = 5, start_val: float = 1.0, end_val: float = 0.0) -> float:
    """``start_val`` for ``init_pause`` epochs, then in equal steps to ``end_val`` in the last epoch."""
    return start_val + _progress(epoch, epochs, init_pause) * (end_val - start_val)


@BLENDINGS.register("cosine")
def cosine(epoch: int, epochs: int, *, init_pause: int = 5, start_val: float = 1.0, end_val: float = 0.0) -> float:
    """``start_val`` for ``init_pause`` epochs, then along half a cosine to ``end_val`` in the last epoch."""
    fallen = 0.5 * (1.0 + math.cos(math.pi * _progress(epoch, epochs, init_pause)))
    return end_val + (start_val - end_val) * fallen


def _progress(epoch: int, epochs: int, pause: int) -> float:
    """0 while the start value is held, 1 in the last epoch.

    A pause that would fill the whole run is shortened to all of its epochs but the last, so that the second term of the
    loss is never left out.
    """
    held = max(1, min(pause, epochs - 1))
    return min(1.0, max(0, epoch - held + 1) / max(1, epochs - held))


def weighting(name: str) -> Json:
    """The entry of config.json for a schedule with its default parameters.

    Raises:
        ConfigError: There is no such schedule.
    """
    return completed({"name": name, "params": {}})


def completed(given: Json) -> Json:
    """An entry of config.json with the parameters that it leaves out.

    Raises:
        ConfigError: An unknown schedule or parameter, or a value out of range.
    """
    if not {"name"} <= given.keys() <= {"name", "params"}:
        raise ConfigError(f"A composite loss weighting has the keys 'name' and 'params', found {sorted(given)}.")
    defaults = _defaults(str(given["name"]))
    params = given.get("params") or {}
    if not isinstance(params, dict):
        raise ConfigError(f"The params of a composite loss weighting are names with values, found {params!r}.")
    for name, value in params.items():
        if name not in defaults:
            known = ", ".join(defaults)
            raise ConfigError(f"The weighting '{given['name']}' has no parameter '{name}'. Known: {known}.")
        _check(name, value)
    return {"name": given["name"], "params": {**defaults, **params}}


def _defaults(name: str) -> Json:
    parameters = inspect.signature(BLENDINGS[name]).parameters.values()
    return {known.name: known.default for known in parameters if known.kind is known.KEYWORD_ONLY}


def _check(name: str, value: object) -> None:
    if name == "init_pause":
        if type(value) is not int or value < 0:
            raise ConfigError(f"init_pause is a number of epochs, 0 or more, found {value!r}.")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{name} is a weight from 0 to 1, found {value!r}.")


def alpha(entry: Json | None, epoch: int, epochs: int) -> float:
    """The weight of the overlap loss in an epoch.

    Args:
        entry: ``training.loss.composite_loss_weighting``; None for equal weights in all epochs.
        epoch: Index of the epoch, from 0.
        epochs: Epochs of the whole run.
    """
    if entry is None:
        return UNSCHEDULED
    whole = completed(entry)
    return float(BLENDINGS[whole["name"]](epoch, epochs, **whole["params"]))
