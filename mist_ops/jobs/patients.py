"""A job that handles patients one by one: their arrays, predictions or scores."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_train_paths
from mist_ops.errors import to_json
from mist_ops.jobs.folder import Work, Writer
from mist_ops.jobs.leaving import Leaving
from mist_ops.workers import Outcome, failure


def run_patients(work: Work, task: int, messages: Writer, leaving: Leaving) -> None:
    """Handle the patients of a task, except those that it reported when it ran before."""
    done = {message["id"] for message in messages.earlier if message["kind"] == "case"}
    left = [case_id for case_id in work.chunks[task] if case_id not in done]
    for outcome in _outcomes(work, left) if left else ():
        case_id = outcome.item.id
        if outcome.error is None:
            messages.send("case", id=case_id, result=outcome.result)
        else:
            messages.send("case", id=case_id, error=to_json(failure(case_id, outcome.error)))
        leaving.check()


def _outcomes(work: Work, ids: Sequence[str]) -> Iterator[Outcome[Any, Any]]:
    return {"preprocess": _preprocessed, "predict": _predicted, "test": _tested, "evaluate": _scored}[work.stage](
        work, ids
    )


def _preprocessed(work: Work, ids: Sequence[str]) -> Iterator[Outcome[Case, str]]:
    from mist_ops.preprocessing.case import write_cases

    study = work.study_of()
    assignment = read_train_paths(study.train_paths)
    yield from write_cases(study, [assignment[case_id] for case_id in ids], read_config(study.config), work.workers)


def _scored(work: Work, ids: Sequence[str]) -> Iterator[Outcome[Any, Mapping[str, Any]]]:
    from pydantic import TypeAdapter

    from mist_ops.evaluation.score import CaseScores
    from mist_ops.evaluation.study import open_evaluation
    from mist_ops.evaluation.table import evaluate

    task, wanted, scores = open_evaluation(work.study_of()), set(ids), TypeAdapter(CaseScores)
    pairs = [pair for pair in task.pairs if pair.id in wanted]
    for outcome in evaluate(pairs, task.config.evaluation, work.workers):
        result = None if outcome.result is None else scores.dump_python(outcome.result)
        yield Outcome(outcome.item, result, outcome.error)


def _predicted(work: Work, ids: Sequence[str]) -> Iterator[Outcome[Case, Mapping[str, Any]]]:
    from mist_ops.devices import resolve_device
    from mist_ops.inference.study import predict_held_out
    from mist_ops.jobs.training import devices

    study = work.study_of()
    found = predict_held_out(study, set(ids), resolve_device(devices(work)[0]))
    yield from _drawn(
        work, found, {case_id: (study.cv_prediction(case_id), study.cv_figure(case_id)) for case_id in ids}
    )


def _tested(work: Work, ids: Sequence[str]) -> Iterator[Outcome[Case, Mapping[str, Any]]]:
    from mist_ops.devices import resolve_device
    from mist_ops.inference.study import predict_tests
    from mist_ops.jobs.training import devices

    study = work.study_of()
    found = predict_tests(study, set(ids), resolve_device(devices(work)[0]))
    files = {case_id: (study.test_prediction(case_id), study.figure(f"test_{case_id}")) for case_id in ids}
    yield from _drawn(work, found, files)


def _drawn(
    work: Work, outcomes: Iterator[Outcome[Case, None]], files: Mapping[str, tuple[Path, Path]]
) -> Iterator[Outcome[Case, Mapping[str, Any]]]:
    """Add the Dice of each predicted patient and its picture."""
    config = read_config(work.study_of().config)
    for outcome in outcomes:
        if outcome.error is not None:
            yield Outcome(outcome.item, None, outcome.error)
            continue
        try:
            result = _shown(work, config, outcome.item, *files[outcome.item.id])
        except Exception as error:  # a picture that cannot be drawn does not stop the others
            yield Outcome(outcome.item, None, error)
        else:
            yield Outcome(outcome.item, result)


def _shown(work: Work, config: StudyConfig, case: Case, mask: Path, figure: Path) -> Mapping[str, Any]:
    from mist_ops.evaluation.picture import dice_of, draw_case

    dice = dice_of(case, mask, config) if work.stage == "predict" else {}
    picture = draw_case(case, mask, figure, config, dice) if work.figures else b""
    return {"dice": dice, "picture": base64.b64encode(picture).decode() if work.thumbnails else ""}
