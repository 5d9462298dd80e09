"""How long it takes to make stale artifacts, from the speed of earlier runs of the study; else nothing is claimed.

The speed of training is in the passports of the study's models: seconds per step, and per validated case. An unfinished
training that can be resumed needs only the epochs that are left. The speed of the other stages is in Dagster's records:
seconds per patient of the latest runs.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import dagster as dg

from mist_dagster.freshness.underway import partitions_of
from mist_dagster.partitions import fold_index
from mist_dagster.stages import STAGES, Inspection, Stage, keys_of
from mist_ops.analysis.folds import make_fold
from mist_ops.config import TrainingConfig
from mist_ops.errors import ConfigError, MistError
from mist_ops.records.passport import Passport, read_passport
from mist_ops.training.attempts import epochs_to_resume

_RUNS = 5
"""Latest runs of a stage that count."""


def hours(
    seen: Inspection, stale: Mapping[str, Mapping[str, str]], instance: dg.DagsterInstance | None
) -> dict[str, float]:
    """Estimated hours by stage, without stages whose speed is not known.

    Args:
        seen: The study.
        stale: What needs a run, by stage and partition.
        instance: Where runs are recorded; None if they are not known.
    """
    found = {}
    for name, keys in stale.items():
        stage = STAGES[name]
        seconds = _training(seen, keys) if name == "train" else instance and _stage(seen, stage, len(keys), instance)
        if seconds:
            found[name] = seconds / 3600
    return found


def _stage(seen: Inspection, stage: Stage, number: int, instance: dg.DagsterInstance) -> float | None:
    """Seconds for some artifacts of a stage, at the mean speed of its latest runs."""
    tags = {"mist/study": seen.study.key, "mist/stage": stage.name}
    filters = dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.SUCCESS])
    keys, done, seconds = keys_of(stage, seen), 0, 0.0
    for record in instance.get_run_records(filters, limit=_RUNS):
        if record.start_time is not None and record.end_time is not None:
            seconds += record.end_time - record.start_time
            done += len(partitions_of(record.dagster_run.tags, keys) or keys)
    return number * seconds / done if done else None


@dataclass(frozen=True)
class _Speed:
    """Seconds of one step of training, and of the validation of one case."""

    step: float
    validation: float
    processes: int


def _training(seen: Inspection, folds: Mapping[str, str]) -> float | None:
    speeds = list(_speeds(seen))
    if not speeds:
        return None
    total = 0.0
    for key in folds:
        with suppress(MistError):  # a fold that cannot be trained as it is
            total += sum(_fold(seen, fold_index(key), speed) for speed in speeds) / len(speeds)
    return total


def _fold(seen: Inspection, index: int, speed: _Speed) -> float:
    training = seen.config.training
    fold = make_fold(
        seen.assignment, index, training.val_percent, training.seed_of_validation, training.validation_cases
    )
    done = min(epochs_to_resume(seen.study, seen.config, fold), training.epochs)
    steps = (training.epochs - done) * training.steps_per_epoch(len(fold.training), speed.processes)
    epochs = {*range(0, training.epochs, training.validation_every), training.epochs - 1}
    validated = sum(1 for epoch in epochs if epoch >= done)
    return steps * speed.step + validated * len(fold.validation) * speed.validation


def _speeds(seen: Inspection) -> Iterator[_Speed]:
    """The speed of each model of the study that was trained with the present network, patches and batches."""
    now = _network(seen.config.model_dump(mode="json"))
    for index in seen.config.training.folds:
        with suppress(ConfigError, ValueError, KeyError, TypeError):  # settings of another version
            passport = read_passport(seen.study.model(index))
            if passport.history and _network(dict(passport.config)) == now:
                yield _speed(passport)


def _network(config: Mapping[str, dict[str, object]]) -> tuple[object, ...]:
    return config["model"], config["spatial_config"], config["training"]["batch_size_per_gpu"]


def _speed(passport: Passport) -> _Speed:
    training = TrainingConfig.model_validate(passport.config["training"])
    steps = len(passport.history) * training.steps_per_epoch(len(passport.training), passport.processes)
    validating = sum(epoch.seconds * epoch.validating for epoch in passport.history)
    validated = sum(epoch.validation_loss is not None for epoch in passport.history) * len(passport.validation)
    return _Speed(
        step=(passport.seconds - validating) / steps,
        validation=validating / validated if validated else 0.0,
        processes=passport.processes,
    )
