"""The epochs of the folds: of a training that runs, and of the model that it will replace."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, JSONResponse

from mist_dagster.freshness.status import duration
from mist_dagster.partitions import fold_key
from mist_dagster.runtime.locks import study_locks
from mist_dagster.site.contents import config_of, read_once, study_of
from mist_dagster.site.rendering import page
from mist_ops.errors import ConfigError
from mist_ops.records.epochs import read_epochs
from mist_ops.records.passport import Epoch, Passport, read_passport
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_RECENT = 20
"""Epochs whose mean time counts for the time that is left."""

Points = Sequence[tuple[int, float]]
"""Number of an epoch, from 1, and a value."""


@dataclass(frozen=True)
class Curve:
    """The training of a fold.

    Attributes:
        fold: Index of the fold.
        state: ``running``, ``unfinished``, ``trained`` or ``untrained``.
        epochs: The epochs done.
        total: Number of epochs of the whole training.
        before: Epochs of the training before this one, if they are on record.
        passport: That of the model; None while it is replaced, or without one.
    """

    fold: int
    state: str
    epochs: Sequence[Epoch]
    total: int
    before: Sequence[Epoch] = ()
    passport: Passport | None = None

    @property
    def training(self) -> Points:
        """The training loss."""
        return [(epoch.index + 1, epoch.training_loss) for epoch in self.epochs if math.isfinite(epoch.training_loss)]

    @property
    def validation(self) -> Points:
        """The validation loss, where it was measured."""
        return [
            (epoch.index + 1, epoch.validation_loss)
            for epoch in self.epochs
            if epoch.validation_loss is not None and math.isfinite(epoch.validation_loss)
        ]

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best weights so far."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.improved), None)

    @property
    def seconds_left(self) -> float | None:
        """Time left at the speed of the latest epochs; None if nothing runs."""
        recent = self.epochs[-_RECENT:]
        if self.state != "running" or not recent:
            return None
        return (self.total - len(self.epochs)) * sum(epoch.seconds for epoch in recent) / len(recent)

    @property
    def left(self) -> str:
        """The time left for people; empty if it is not known."""
        return "" if self.seconds_left is None else duration(self.seconds_left / 3600)

    @property
    def taken(self) -> str:
        """The time that the epochs took."""
        return duration(sum(epoch.seconds for epoch in self.epochs) / 3600)


def curves(study: Study, folds: Sequence[int], epochs: int) -> list[Curve]:
    """The training of each fold; ``epochs`` is the number in config.json."""
    running = {
        str(key)
        for lock in study_locks(study)
        if lock.get("stage") == "train"
        for key in (lock.get("partitions") or [fold_key(fold) for fold in folds])
    }
    return [_curve(study, fold, epochs, fold_key(fold) in running) for fold in folds]


def _curve(study: Study, fold: int, total: int, running: bool) -> Curve:
    passport = _passport(study.model(fold))
    history = passport.history if passport else ()
    attempt = study.attempt_epochs(fold)
    if running or study.attempt(fold).is_file():
        state = "running" if running else "unfinished"
        return Curve(fold, state, read_once(read_epochs, attempt), total, history)
    if passport is None:
        return Curve(fold, "untrained", (), total)
    before = read_once(read_epochs, study.previous_epochs(fold))
    return Curve(fold, "trained", history, len(history), before, passport)


def _passport(weights: Path) -> Passport | None:
    with suppress(ConfigError):  # the state of the study reports it
        return read_once(_read, weights.with_suffix(".json"))
    return None


def _read(path: Path) -> Passport:
    return read_passport(path.with_suffix(".pt"))


def training(request: "Request") -> "Response":
    """The page with the curves of all folds."""
    study = study_of(request)
    config = config_of(study)
    folds = curves(study, config.training.folds, config.training.epochs) if config else []
    return HTMLResponse(page("training.html", study=study, config=config, folds=folds))


def epochs(request: "Request") -> "Response":
    """The epochs of all folds, without those that a page has: the query says how many of each fold, ``0=120&1=30``."""
    study = study_of(request)
    config = config_of(study)
    folds = curves(study, config.training.folds, config.training.epochs) if config else []
    return JSONResponse([_as_json(curve, request.query_params.get(str(curve.fold), "")) for curve in folds])


def _as_json(curve: Curve, known: str) -> dict[str, Any]:
    start = int(known) if known.isdecimal() and len(known) < 9 else 0
    best = curve.best
    return {
        "fold": curve.fold,
        "state": curve.state,
        "total": curve.total,
        "done": len(curve.epochs),
        "left": curve.left,
        "best": None if best is None else {"epoch": best.index + 1, "loss": _finite(best.validation_loss)},
        "start": start if start <= len(curve.epochs) else 0,
        "epochs": [_row(epoch) for epoch in curve.epochs[start if start <= len(curve.epochs) else 0 :]],
        "before": [] if start else [_row(epoch) for epoch in curve.before],
    }


def _row(epoch: Epoch) -> dict[str, Any]:
    chosen = ("index", "training_loss", "validation_loss", "learning_rate", "waiting", "seconds")
    values = asdict(epoch)
    return {name: _finite(values[name]) for name in chosen}


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
