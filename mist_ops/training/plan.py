"""What to train: one fold of a study, with its settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.records.arrays import ARRAYS, LABELED
from mist_ops.registry import LOSSES
from mist_ops.steps import settings, view
from mist_ops.study import Study
from mist_ops.training.attempts import case_hashes
from mist_ops.training.pretrained import Pretrained
from mist_ops.types import Json


@dataclass(frozen=True)
class Plan:
    """What to train; see ``train_fold``."""

    study: Study
    config: StudyConfig
    fold: Fold
    resume: bool = False
    workers: int | None = None
    pretrained: Pretrained | None = None

    @property
    def settings(self) -> StudyConfig:
        """The configuration as far as training may read it."""
        return view(self.config, "training")

    @property
    def arrays(self) -> tuple[str, ...]:
        """The arrays of a case that training reads."""
        return read_arrays(self.config)

    def as_json(self) -> Json:
        """Return the plan as JSON, for another process."""
        whole = {**asdict(self), "config": self.config.model_dump(mode="json")}
        return dict(json.loads(json.dumps(whole, default=str)))

    @staticmethod
    def from_json(content: Json) -> Plan:
        """Return the plan of ``as_json``."""
        study, fold, pretrained = content["study"], content["fold"], content["pretrained"]
        paths = {name: Path(study[name]) for name in ("numpy", "results", "data") if study[name] is not None}
        files = {name: Path(pretrained[name]) for name in ("weights", "config")} if pretrained else {}
        return Plan(
            Study(study["name"], **paths),
            StudyConfig.model_validate(content["config"]),
            Fold(fold["index"], *(tuple(fold[part]) for part in ("training", "validation", "held_out"))),
            content["resume"],
            content["workers"],
            Pretrained(**{**pretrained, **files}) if pretrained else None,
        )


def read_arrays(config: StudyConfig) -> tuple[str, ...]:
    """The arrays of a case that training reads: with distance maps if the loss needs them."""
    # Not by the entry itself: the process that follows a job on a cluster need not load torch.
    needs = LOSSES.declared(config.training.loss.name, "needs", frozenset())
    return ARRAYS if "dtm" in cast("frozenset[str]", needs) else LABELED


def run_settings(study: Study, config: StudyConfig, fold: Fold) -> Json:
    """The settings of a run and the hashes of its cases, which must match those in a checkpoint to resume."""
    return {**settings(config, "training"), "cases": case_hashes(study, fold, read_arrays(config))}
