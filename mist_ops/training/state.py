"""The state of a run between two epochs, and its checkpoint.

Random number generators are not part of it: each is seeded from the epoch or the step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from mist_ops.config import leaves
from mist_ops.errors import ConfigError, listing
from mist_ops.models.weights import check_fit, read_tensors, write_tensors
from mist_ops.records.passport import Computing, Epoch
from mist_ops.steps import newer_settings
from mist_ops.training.attempts import ADJUSTABLE
from mist_ops.types import Json

_ONLY_AT_START = frozenset({"pretrained"})
"""Settings that affect only the initial weights."""

_SHOWN = 5
_ABSENT = "absent"
_HASH = re.compile("[0-9a-f]{64}")


@dataclass
class TrainingState:
    """A model in training.

    Attributes:
        fold: Index of the fold.
        model: On its device.
        optimizer: Of that model.
        epoch: Number of epochs done, which is the index of the next one.
        step: Number of optimizer steps done.
        best_validation_loss: Smallest so far.
        best_weights: Weights with that loss, on the CPU.
        history: The epochs done.
        changes: Settings that changed when the run was resumed, one message each.
        computing: How the network is computed; None in a fresh state, and after loading an old checkpoint.
    """

    fold: int
    model: nn.Module
    optimizer: Optimizer
    epoch: int = 0
    step: int = 0
    best_validation_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    computing: Computing | None = None

    def end_epoch(self, validation_loss: float | None) -> bool:
        """Count an epoch as done; if its loss is the smallest so far, keep its weights and return True."""
        self.epoch += 1
        improved = validation_loss is not None and validation_loss < self.best_validation_loss
        if validation_loss is not None and improved:
            self.best_validation_loss = validation_loss
            weights = self.model.state_dict()
            self.best_weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        return improved


class _Checkpoint(BaseModel):
    """The content of the file, in its order; the attributes of ``TrainingState``, with state dicts and settings."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    fold: int
    epoch: int
    step: int
    best_validation_loss: float
    best_weights: dict[str, Tensor]
    history: list[Epoch]
    changes: list[str]
    settings: Json
    model: dict[str, Any]
    optimizer: dict[Any, Any]
    computing: Computing | None = None


def save_checkpoint(path: Path, state: TrainingState, settings: Json) -> None:
    """Write everything that resuming needs, with the settings of the run, atomically."""
    content = {
        "fold": state.fold,
        "epoch": state.epoch,
        "step": state.step,
        "best_validation_loss": state.best_validation_loss,
        "best_weights": state.best_weights,
        "history": [asdict(epoch) for epoch in state.history],
        "changes": state.changes,
        "settings": settings,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict()["state"],
        "computing": state.computing and state.computing.model_dump(),
    }
    write_tensors(path, content)


def load_checkpoint(path: Path, state: TrainingState, settings: Json) -> Json:
    """Load a checkpoint into a fresh state, and return the settings that apply from now on.

    The optimizer keeps the learning rate and weight decay that it was built with, so changed ones take effect.
    ``pretrained`` affects only the initial weights and may be missing from the new settings.

    Raises:
        ConfigError: The file is not a checkpoint, or settings changed that may not; all of them are listed.
    """
    checkpoint = _read(path)
    before = checkpoint.settings
    settings = {**{name: before[name] for name in _ONLY_AT_START & before.keys()}, **settings}
    changes = _changes(path, checkpoint, settings)
    check_fit(path, checkpoint.model, state.model.state_dict())
    state.fold, state.epoch, state.step = checkpoint.fold, checkpoint.epoch, checkpoint.step
    state.best_validation_loss, state.best_weights = checkpoint.best_validation_loss, checkpoint.best_weights
    state.history, state.computing = checkpoint.history, checkpoint.computing
    state.changes = [*checkpoint.changes, *(f"from epoch {state.epoch + 1}: {change}" for change in changes)]
    state.model.load_state_dict(checkpoint.model)
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": checkpoint.optimizer, "param_groups": groups})
    return settings


def changes_on_resuming(path: Path, settings: Json) -> list[str]:
    """List the settings that change if a run resumes from a checkpoint, one message each.

    Args:
        path: The checkpoint.
        settings: The new settings, without ``pretrained``.

    Raises:
        ConfigError: As ``load_checkpoint``.
    """
    checkpoint = _read(path)
    return _changes(path, checkpoint, settings)


def epochs_done(path: Path) -> int:
    """The number of epochs in a checkpoint; 0 if it does not exist.

    Raises:
        ConfigError: The file is not a checkpoint.
    """
    return _read(path).epoch if path.is_file() else 0


def _read(path: Path) -> _Checkpoint:
    content = read_tensors(path)
    try:
        return _Checkpoint.model_validate(content)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a checkpoint of mist_train. Train the fold from scratch with --overwrite.",
            code="checkpoint-invalid",
            file=path,
        ) from error


def _changes(path: Path, checkpoint: _Checkpoint, now: Json) -> list[str]:
    """The settings that differ, one message each; those that may not change are an error."""
    changes = dict(_differences(checkpoint.settings, now))
    refused = {place: message for place, message in changes.items() if place not in ADJUSTABLE}
    if refused:
        shown = list(refused.values())[:_SHOWN]
        more = [f"and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
        raise ConfigError(
            f"Fold {checkpoint.fold} cannot resume from {path}, because settings changed: {listing([*shown, *more])}. "
            "Restore them, or train the fold from scratch with --overwrite.",
            code="resume-mismatch",
            file=path,
            field=next(iter(refused)),
        )
    return list(changes.values())


def _differences(old: Json, new: Json) -> Iterator[tuple[str, str]]:
    """The dotted paths at which two sets of settings differ, each with a message that has both values.

    Settings that only one side has are skipped, as training read others in earlier versions; cases are not.
    """
    known = newer_settings()
    old_leaves, new_leaves = leaves(old), leaves(new)
    complete = {"cases", *(_ONLY_AT_START & new.keys())}
    for path in dict.fromkeys([*old_leaves, *new_leaves]):
        both = path in old_leaves and path in new_leaves
        if both or path in known or path.partition(".")[0] in complete:
            before, after = old_leaves.get(path, _ABSENT), new_leaves.get(path, _ABSENT)
            if before != after:
                yield path, f"{path} was {_formatted(before)} and is now {_formatted(after)}"


def _formatted(value: object) -> str:
    text = str(value) or _ABSENT
    return f"{text[:8]}…" if _HASH.fullmatch(text) else text
