"""What of a study is stale, all the way down: the rows of the table of stages, compared with the files."""

import gc
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg

from mist_dagster.freshness.estimates import hours
from mist_dagster.freshness.underway import Activity, activities, divide
from mist_dagster.freshness.what_if import imagined
from mist_dagster.partitions import fold_key
from mist_dagster.stages import STAGES, Inspection, Stage, stale_partitions, tracked
from mist_dagster.stages.stale import by_reason
from mist_ops.analysis.changes import GONE, NEW
from mist_ops.analysis.folds import check_folds
from mist_ops.errors import counted, few
from mist_ops.study import Study
from mist_ops.types import Json

_MINUTE = 1 / 60
"""In hours."""

_NO_OUTPUTS: Mapping[Path, str] = MappingProxyType({})


@dataclass(frozen=True)
class Status:
    """What of a study is stale, and why.

    Attributes:
        stale: Partitions that need a run, with the reason of each, by stage in the order of the table; stages that are
            current have no entry. A stage without partitions has the name of its file.
        under_way: Partitions that a run is making, or will make once the queue starts it. They are not in ``stale``.
        waiting: Partitions that need a run after those, with what they wait for. They are not in ``stale`` either.
        hours: Estimated time of what is stale, by stage, without stages whose speed is not known.
        unused: Arrays and predictions of patients who are not in the study.
        unfinished: Folds with an unfinished training that no run continues.
        kept: Artifacts that were declared current although something changed, with what changed and why, by stage.
    """

    stale: Mapping[str, Mapping[str, str]]
    under_way: Mapping[str, Mapping[str, Activity]] = field(default_factory=dict)
    waiting: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hours: Mapping[str, float] = field(default_factory=dict)
    unused: Sequence[Path] = ()
    unfinished: Sequence[int] = ()
    kept: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, stage: str) -> Mapping[str, str]:
        """What is stale of a stage."""
        return self.stale.get(stage, {})

    @property
    def current(self) -> bool:
        """Whether nothing needs a run that is not under way."""
        return not self.stale


def status(
    study: Study,
    instance: dg.DagsterInstance | None = None,
    but: str | None = None,
    what_if: Sequence[str] = (),
    as_analyzed: bool = False,
) -> Status:
    """Compare every artifact of a study with what it was made from.

    Args:
        study: The study.
        instance: Where its runs are recorded; None ignores them.
        but: Id of a run that does not count as under way: the one that asks.
        what_if: Changes to imagine, as ``imagined`` takes them. Nothing is changed.
        as_analyzed: Whether to ignore changes of the dataset since the analysis, such as patients who are new or gone.

    Raises:
        MistError: A change is not valid, the study has not been analyzed, its tables cannot be read, or a patient is in
            none of its folds.
    """
    with _without_collection():
        seen = Inspection(study, imagined(what_if), as_analyzed=as_analyzed)
        check_folds(seen.assignment, seen.config.training.nfolds)
        for stage in tracked():
            seen.stale[stage.name] = stale_partitions(stage, seen)
    found = divide(seen, activities(seen, instance, but) if instance else [])
    trained = found.under_way.get("train", {})
    return Status(
        stale=found.stale,
        under_way=found.under_way,
        waiting=found.waiting,
        hours=hours(seen, found.stale, instance),
        unused=unused(study, seen),
        unfinished=[
            fold
            for fold in seen.config.training.folds
            if study.attempt(fold).is_file() and fold_key(fold) not in trained
        ],
        kept=_kept(seen),
    )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Disable garbage collection, which takes a seventh of the time with thousands of records and frees nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _kept(seen: Inspection) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    names = {stage.kept_as: stage.name for stage in tracked()}
    for (step, key), entries in seen.kept.applied.items():
        found.setdefault(names[step], {})[key] = "; ".join(map(str, entries))
    return found


def unused(study: Study, seen: Inspection) -> list[Path]:
    """Arrays and predictions of patients who are not in the study, such as those of an earlier analysis."""
    # A patient that is gone belongs to the study until its analysis is updated; one that is new may have come back.
    patients = {*seen.analyzed.assignment.fold_of, *seen.assignment.fold_of}
    tests = {case.id for case in (*seen.analyzed.tests, *seen.test_cases)}
    kinds = ((study.image, patients), (study.cv_prediction, patients), (study.test_prediction, tests))
    return sorted(path for locate, ids in kinds for path in _of_others(locate, ids))


def _of_others(locate: Callable[[str], Path], ids: Collection[str]) -> Iterator[Path]:
    """Files beside those of some ids that belong to others."""
    example = locate("id")
    suffix = example.name.removeprefix("id")
    used = {f"{case_id}{suffix}" for case_id in ids}
    with suppress(FileNotFoundError):
        for name in os.listdir(example.parent):  # noqa: PTH208 - of thousands of files
            if name.endswith(Path(suffix).suffix) and name not in used and not name.startswith("."):
                yield example.parent / name


def report(found: Status, outputs: Mapping[Path, str] = _NO_OUTPUTS) -> Iterator[str]:
    """A status as lines for people.

    Args:
        found: What of the study is stale.
        outputs: Outputs of tools that depend on the study and are stale, with the reasons.
    """
    yield from report_unused(found.unused)
    if found.unfinished:
        folds = f"{'fold' if len(found.unfinished) == 1 else 'folds'} {few(found.unfinished)}"
        yield f"Unfinished training of {folds}: mist_train --resume continues it, --discard removes it."
    for name, texts in found.kept.items():
        for text, keys in by_reason(texts).items():
            yield f"{few(keys)} ({STAGES[name].doing.lower()}) {'is' if len(keys) == 1 else 'are'} {text}."
    for name, made in found.under_way.items():
        yield from _under_way(STAGES[name], made)
    if found.current and not outputs and not found.waiting:
        yield "Everything else is current." if found.under_way else "Everything is current."
        return
    for name, reasons in found.stale.items():
        yield from _of_stage(STAGES[name], reasons)
    for path, reason in outputs.items():
        yield f"Rebuild {path}: {reason}."
    if found.waiting:
        steps = [_waiting(STAGES[name], keys) for name, keys in found.waiting.items()]
        yield f"To do after these runs: {'; '.join(steps)}."
    if found.hours:
        yield _estimate(found)


def _estimate(found: Status) -> str:
    hours: dict[str, float] = {}
    for name, needed in found.hours.items():
        hours[STAGES[name].doing.lower()] = hours.get(STAGES[name].doing.lower(), 0.0) + needed
    unknown = [STAGES[name].doing.lower() for name in found.stale if name not in found.hours]
    rest = f"not yet measured: {few(list(dict.fromkeys(unknown)))}" if unknown else ""
    worth_a_word = [f"{work} {duration(needed)}" for work, needed in hours.items() if needed >= _MINUTE]
    details = "; ".join(filter(None, (", ".join(worth_a_word) if len(hours) > 1 else "", rest)))
    return f"Estimated time: {duration(sum(hours.values()))}{f' ({details})' if details else ''}."


def as_json(found: Status, outputs: Mapping[Path, str] = _NO_OUTPUTS) -> Json:
    """A status for programs: as ``Status``, with the reasons, and outputs of tools as ``report`` takes them."""
    return {
        "current": found.current and not outputs,
        "stale": {name: dict(reasons) for name, reasons in found.stale.items()},
        "under_way": {
            name: {key: str(activity) for key, activity in made.items()} for name, made in found.under_way.items()
        },
        "waiting": {name: dict(reasons) for name, reasons in found.waiting.items()},
        "kept": {name: dict(texts) for name, texts in found.kept.items()},
        "outputs": {str(path): reason for path, reason in outputs.items()},
        "hours": dict(found.hours),
        "unused": [str(path) for path in found.unused],
        "unfinished": list(found.unfinished),
    }


def _under_way(stage: Stage, made: Mapping[str, Activity]) -> Iterator[str]:
    for activity, keys in by_reason({key: str(activity) for key, activity in made.items()}).items():
        if stage.partitions == "folds":
            what = f"{'fold' if len(keys) == 1 else 'folds'} {few([key.removeprefix('fold_') for key in keys])}"
        elif stage.partitions:
            what = f"{counted(len(keys), stage.noun)} ({few(keys)})"
        else:
            what = few(keys)
        yield f"{stage.doing} {what}: {activity}."


def _waiting(stage: Stage, keys: Mapping[str, str]) -> str:
    action = stage.action.lower()
    return f"{action} {counted(len(keys), stage.noun)}" if stage.partitions else f"{action} ({few(list(keys))})"


def _of_stage(stage: Stage, reasons: Mapping[str, str]) -> Iterator[str]:
    if stage.name == "analyze":
        yield from _of_dataset(reasons)
    elif stage.partitions == "folds":
        yield from (f"{stage.action} {key.replace('_', ' ')}: {reason}." for key, reason in reasons.items())
    elif stage.partitions:
        for reason, keys in by_reason(reasons).items():
            yield f"{stage.action} {counted(len(keys), stage.noun)} ({few(keys)}): {reason}."
    else:
        yield from (f"{stage.action}: {name}: {reason}." for name, reason in reasons.items())


def _of_dataset(reasons: Mapping[str, str]) -> Iterator[str]:
    """Report what an update of the analysis would take up."""
    for reason, keys in by_reason(reasons).items():
        if reason == NEW:
            yield f"Analyze {counted(len(keys), 'new patient')} ({few(keys)}) with mist_analyze --update."
        elif reason == GONE:
            they, them = ("is gone", "it") if len(keys) == 1 else ("are gone", "them")
            yield f"Analyze: {few(keys)} {they}; mist_analyze --update removes {them} from the study."
        else:
            yield f"Analyze: {few(keys)}: {reason}; mist_analyze --update applies it."


def report_unused(paths: Sequence[Path]) -> Iterator[str]:
    """A line on files that are not used, if there are any."""
    if paths:
        files = counted(len(paths), "array or prediction", "arrays and predictions")
        yield f"Not used: {files} of patients who are not in this study, such as {paths[0]}. Remove what is not needed."


def stale_results(study: Study, found: Status) -> Status:
    """The models and predictions of a status that exist, which a user might take for results of the present state."""
    return Status(
        stale={
            name: existing
            for name, reasons in found.stale.items()
            if STAGES[name].partitions and name != "preprocess"
            for existing in [{key: why for key, why in reasons.items() if _exists(STAGES[name], study, key)}]
            if existing
        }
    )


def of_replica(found: Status) -> Status:
    """A status without the stages that a replica shares with the original, whose status has them."""

    def own(parts: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in parts.items() if not STAGES[name].shared}

    return replace(
        found,
        stale=own(found.stale),
        under_way=own(found.under_way),
        waiting=own(found.waiting),
        hours=own(found.hours),
        kept=own(found.kept),
        unused=[],
    )


def _exists(stage: Stage, study: Study, key: str) -> bool:
    return stage.locate is not None and stage.locate(study, key).exists()


def duration(hours: float) -> str:
    """Format a duration: ``1.3 h``, ``20 min``, ``less than 1 min``."""
    if hours < _MINUTE:
        return "less than 1 min"
    return f"{hours:.1f} h" if hours >= 1 else f"{round(60 * hours)} min"
