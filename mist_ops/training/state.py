"""What a run is between two epochs, and its checkpoint.

Random numbers are no part of it: every generator is seeded from the epoch or the step, so there is nothing to restore.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from mist_ops.errors import ConfigError, listing
from mist_ops.models.weights import check_fit, read_tensors, write_tensors
from mist_ops.types import Json

ADJUSTABLE = frozenset(
    {
        "training.epochs",
        "training.batch_size_per_gpu",
        "training.learning_rate",
        "training.lr_scheduler",
        "training.warmup_epochs",
        "training.l2_penalty",
        "training.grad_clip_norm",
        "training.amp",
        "inference.inferer.params.sw_batch_size",
    }
)
"""Settings that a resumed run may change; each epoch takes them as they are then. A smaller batch is among them, for
want of memory is what stops many a run."""

_BEGINNING = frozenset({"pretrained"})
"""Settings that matter only to the first step."""

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
        epoch: Epochs done, and so the index of the next.
        step: Optimizer steps done.
        best_validation_loss: Smallest so far.
        best_weights: Weights that gave it, on the CPU.
        history: What came of each epoch, as JSON.
        changes: Settings that were changed when the run was resumed, in words.
    """

    fold: int
    model: nn.Module
    optimizer: Optimizer
    epoch: int = 0
    step: int = 0
    best_validation_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    def end_epoch(self, validation_loss: float) -> bool:
        """Count an epoch as done; keeps its weights, and returns True, if its loss is the smallest so far."""
        self.epoch += 1
        improved = validation_loss < self.best_validation_loss
        if improved:
            self.best_validation_loss = validation_loss
            weights = self.model.state_dict()
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        return improved


_PLAIN: Mapping[str, type] = {
    "fold": int,
    "epoch": int,
    "step": int,
    "best_validation_loss": float,
    "best_weights": dict,
    "history": list,
    "changes": list,
}
"""The attributes that a checkpoint holds as they are."""


def save_checkpoint(path: Path, state: TrainingState, settings: Json) -> None:
    """Write everything that going on needs, with the settings it was made with, atomically."""
    content = {name: getattr(state, name) for name in _PLAIN}
    optimizer = state.optimizer.state_dict()["state"]
    write_tensors(path, {**content, "settings": settings, "model": state.model.state_dict(), "optimizer": optimizer})


def load_checkpoint(path: Path, state: TrainingState, settings: Json) -> Json:
    """Put a checkpoint into a fresh state, and return the settings that hold from now on.

    The optimizer keeps the learning rate and the weight decay that it was built with, so that changed ones hold. What
    the run began with (``pretrained``) need not be given again.

    Raises:
        ConfigError: The file is no checkpoint, or one of other settings, which are all named, old and new.
    """
    content = _read(path)
    settings = {**{name: content["settings"][name] for name in _BEGINNING & content["settings"].keys()}, **settings}
    differing = _changed(path, content, content["settings"], settings)
    check_fit(path, content["model"], state.model.state_dict())
    for name in _PLAIN:
        setattr(state, name, content[name])
    state.changes += [f"from epoch {state.epoch}: {words}" for words in differing]
    state.model.load_state_dict(content["model"])
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": content["optimizer"], "param_groups": groups})
    return settings


def changes_on_resuming(path: Path, settings: Json) -> list[str]:
    """The settings that a run would change that goes on from a checkpoint, in words.

    Args:
        path: The checkpoint.
        settings: Those of the run, but for what it begins with.

    Raises:
        ConfigError: As ``load_checkpoint``.
    """
    content = _read(path)
    return _changed(path, content, {name: content["settings"].get(name, _ABSENT) for name in settings}, settings)


def epochs_done(path: Path) -> int:
    """The epochs after which a checkpoint was written; 0 if there is none.

    Raises:
        ConfigError: The file is no checkpoint.
    """
    return int(_read(path)["epoch"]) if path.is_file() else 0


def _read(path: Path) -> Json:
    content = read_tensors(path)
    kinds = {**_PLAIN, "settings": dict, "model": dict, "optimizer": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise ConfigError(f"{path} is not a checkpoint of this program. Train the fold from the start.")
    return content


def _changed(path: Path, content: Json, before: Json, now: Json) -> list[str]:
    """The settings that a resumed run changes, in words; one that it may not change is refused."""
    differing = dict(_differences(before, now))
    refused = [words for place, words in differing.items() if place not in ADJUSTABLE]
    if refused:
        more = [f"and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
        raise ConfigError(
            f"Fold {content['fold']} cannot be resumed from {path}, which was made with other settings: "
            f"{listing([*refused[:_SHOWN], *more])}. Go back to those, or train the fold from the start."
        )
    return list(differing.values())


def _differences(old: Json, new: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Places at which two sets of settings differ, each with a phrase that names both."""
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}", f"{prefix}{name} was {_told(before)} and is now {_told(after)}"


def _told(value: object) -> str:
    text = str(value) or _ABSENT
    return f"{text[:8]}…" if _HASH.fullmatch(text) else text
