"""The passport of a model: a JSON file beside the weights with what they were trained on and how training went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mist_ops.errors import ConfigError
from mist_ops.files import read_object, write_json
from mist_ops.schema import mistakes
from mist_ops.types import Json

_MUCH_WAITING = 0.05
"""Share of the training time spent waiting for batches from which it is shown beside the losses."""


class _Record(BaseModel):
    """Immutable; keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True)
class Epoch:
    """Result of one epoch.

    Attributes:
        index: Number of the epoch, from 0.
        training_loss: Mean over its steps and over the processes that train together.
        validation_loss: Mean over the validation volumes; None after an epoch without validation.
        learning_rate: Learning rate of its steps.
        improved: Whether its weights are the best so far.
        seconds: Wall time of training and validation together.
        waiting: Share of the training time spent waiting for batches, in [0, 1]. A GPU may compute meanwhile.
        alpha: Weight of the second loss in a blended one; None for other losses.
        validating: Share of ``seconds`` spent validating, in [0, 1].
    """

    index: int
    training_loss: float
    validation_loss: float | None
    learning_rate: float
    improved: bool
    seconds: float
    waiting: float
    alpha: float | None = None
    validating: float = 0.0

    @property
    def summary(self) -> str:
        """The losses, as in ``loss 0.1234, val 0.2345``, and the share of waiting above 5 %."""
        validation = "" if self.validation_loss is None else f", val {self.validation_loss:.4f}"
        waiting = f", {self.waiting:.0%} waiting for data" if self.waiting > _MUCH_WAITING else ""
        return f"loss {self.training_loss:.4f}{validation}{waiting}"


class Content(_Record):
    """Hashes of the arrays that a fold saw, by patient."""

    training: dict[str, str] = {}
    validation: dict[str, str] = {}


class Source(_Record):
    """The passport of pretrained weights, in short."""

    fold: int | None = None
    weights: str | None = None
    settings: str | None = None
    content: Content | None = None


class Encoder(_Record):
    """The pretrained weights that training started from.

    Attributes:
        weights: SHA-256 of the pretrained weights.
        config: SHA-256 of their config.json.
        architecture: Of both networks.
        input_channels: What became of tensors that see the image where the numbers of channels differ.
        loaded: Tensors taken over as they are.
        loaded_values: Values in them.
        adapted: Tensors taken over with another number of channels.
        skipped: Tensors that kept their random initialization.
        passport: Of the pretrained weights, if they have one.
        whole: Whether all of the network started from them, and not only its encoder.
    """

    weights: str
    config: str
    architecture: str
    input_channels: str
    loaded: int
    loaded_values: int
    adapted: tuple[str, ...]
    skipped: tuple[str, ...]
    passport: Source | None = None
    whole: bool = False


class Hardware(_Record):
    """The machine that trained a fold; memory is the peak of the first process, in bytes."""

    machine: str
    cores: int | None = None
    gpu: str | None = None
    peak_memory: int
    peak_gpu_memory: int | None = None


class Computing(_Record):
    """How a network was computed in training. Results of different ways differ by rounding."""

    precision: Literal["bf16", "fp32"]
    memory_format: Literal["channels_first", "channels_last"]


class Windows(_Record):
    """The windows in which whole volumes were predicted to select weights."""

    overlap: float
    blend_mode: Literal["gaussian", "constant"]


class Passport(_Record):
    """What a model was trained on, and how training went.

    Attributes:
        fold: Index of the fold.
        training: Patients that trained it.
        validation: Patients that selected its weights.
        held_out: Patients that it predicts in the cross-validation.
        content: The arrays of both, by hash.
        arrays: Those that were read, of each patient; empty in passports of version 0.9 and earlier.
        windows: Those of validation; None if they were those of predictions.
        config: The whole config.json. Later versions may not accept it any more, so it stays unchecked here.
        settings: Digest of those that training reads.
        version: Of the training code; see ``STEP_VERSIONS``.
        seed: Seed of everything random.
        changes: Settings that changed when training was resumed, one message each.
        pretrained: Where the encoder or the whole network comes from, if not from random initialization.
        versions: Of Python, CUDA and the packages that compute.
        packages: Of all packages that were installed; empty in passports of version 1.0 and earlier.
        hardware: The machine.
        mist_version: Version that wrote config.json.
        device: Name of the GPU, or ``"cpu"``.
        computing: Precision and memory format; None in passports of version 0.9 and earlier.
        processes: How many trained together.
        history: One entry per epoch.
        best_epoch: Index of the epoch whose weights were kept.
        seconds: Wall time of all epochs.
        weights: SHA-256 of the file of weights.
        kept: Why a person declared the model current although something changed since, one message each.
    """

    fold: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]
    content: Content
    arrays: tuple[str, ...] = ()
    windows: Windows | None = None
    config: Json
    settings: str
    version: int = 1
    seed: int
    changes: tuple[str, ...] = ()
    pretrained: Encoder | None = None
    versions: dict[str, str | None]
    packages: dict[str, str] = {}
    hardware: Hardware | None = None
    mist_version: str
    device: str
    computing: Computing | None = None
    processes: int = 1
    history: tuple[Epoch, ...]
    best_epoch: int
    seconds: float
    weights: str
    kept: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _best_epoch_exists(self) -> Passport:
        if not 0 <= self.best_epoch < len(self.history):
            raise ValueError(f"'best_epoch' is {self.best_epoch}, but the history has {len(self.history)} epochs")
        if self.best.validation_loss is None:
            raise ValueError(f"'best_epoch' is {self.best_epoch}, which has no validation loss")
        return self

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.history[self.best_epoch]

    @property
    def best_loss(self) -> float:
        """The smallest validation loss."""
        loss = self.best.validation_loss
        assert loss is not None
        return loss


def write_passport(path: Path, passport: Passport) -> None:
    """Write a passport atomically."""
    write_json(path, passport.model_dump(mode="json"))


def read_passport(weights: Path) -> Passport:
    """Read the passport of a model.

    Args:
        weights: The file of weights; ``fold_0.json`` is the passport of ``fold_0.pt``.

    Raises:
        ConfigError: The passport is missing or cannot be read.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        raise ConfigError(
            f"{weights} has no passport: {path} is missing. Restore it, or train the fold again.",
            code="passport-missing",
            file=path,
        )
    try:
        return Passport.model_validate(read_object(path))
    except ValueError as error:
        problem = mistakes(error, Passport)[0] if isinstance(error, ValidationError) else "it is not a JSON object"
        raise ConfigError(
            f"{path} is not a valid passport ({problem.rstrip('.')}). Restore it, or train the fold again.",
            code="passport-invalid",
            file=path,
        ) from error


def trained_on(weights: Path) -> frozenset[str]:
    """The patients that trained a model according to its passport; none if it has no passport.

    Raises:
        ConfigError: The passport cannot be read.
    """
    if not weights.with_suffix(".json").is_file():
        return frozenset()
    return frozenset(read_passport(weights).content.training)
