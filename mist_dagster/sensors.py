"""Sensors on the files of a study: one marks in the UI what became stale, one rebuilds it."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from mist_dagster.freshness.checks import Report
from mist_dagster.freshness.status import status
from mist_dagster.freshness.underway import runs_under_way
from mist_dagster.stages import job_name
from mist_ops.analysis.changes import Analyzed, pending_update, read_analyzed
from mist_ops.config import settings_file
from mist_ops.errors import MistError
from mist_ops.files import json_hash, stamp
from mist_ops.study import Study

_SECONDS = 60


def study_sensors(study: Study) -> list[dg.SensorDefinition]:
    """Return a sensor that marks what became stale, which is on, and one that rebuilds it, which is off."""
    return [_watch(study), _keep_current(study)]


def _watch(study: Study) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{study.key}__watch",
        job_name=job_name(study, "status"),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Mark what became stale after a file was edited, replaced or deleted, and what a run is making.",
    )
    def watching(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            files = state_of_files(study)
            runs = [record.dagster_run for record in runs_under_way(context.instance)]
            if any(run.job_name == job_name(study, "status") for run in runs):
                return dg.SkipReason("The marks are being updated.")
            of_study = {run.run_id: run.status.value for run in runs if run.tags.get("mist/study") == study.key}
            found = json_hash({"files": files, "runs": of_study})
            if context.cursor == found:
                return dg.SkipReason("Nothing changed.")
            changed = next(Report(context.instance, study, status(study, context.instance)).changes(), None)
        except MistError as error:
            return dg.SkipReason(str(error))
        if changed is None:
            context.update_cursor(found)
            return dg.SkipReason("Nothing became stale or current.")
        return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=found)

    return watching


def _keep_current(study: Study) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{study.key}__keep_current",
        job_name=job_name(study, "make_current"),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Rebuild what an edit made out of date, models included.",
    )
    def rebuilding(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            found = json_hash(_inputs_now(study))
        except MistError as error:
            return dg.SkipReason(str(error))
        if context.cursor in (None, found):
            # The first tick only records a baseline.
            context.update_cursor(found)
            return dg.SkipReason("No file changed.")
        return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=found)

    return rebuilding


def state_of_files(study: Study) -> str:
    """A hash of size and times of every file that makes something stale when it changes."""
    return json_hash({"inputs": _inputs_now(study), "outputs": _outputs_now(study)})


def _inputs_now(study: Study) -> dict[str, object]:
    """Size and times of each file that users edit, and what changed in the dataset since the analysis."""
    analyzed = read_analyzed(study)
    stamps = {str(path): stamp(path) for path in _inputs(study, analyzed) if path.is_file()}
    return {"files": stamps, "dataset": dict(pending_update(study, analyzed).reasons)}


def _outputs_now(study: Study) -> dict[str, tuple[int, int]]:
    """Size and modification time of each file in the folders of a study, checkpoints and curves of a training apart."""
    skipped = {study.checkpoint(0).parent, study.curves, study.results / ".locks", study.replicas_folder}
    return {path: found for folder in (study.numpy, study.results) for path, found in _files(folder, skipped)}


def _files(folder: Path, skipped: set[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) not in skipped]
        for name in names:
            path = os.path.join(place, name)  # noqa: PTH118 - of thousands of files
            try:
                found = os.stat(path)  # noqa: PTH116
            except FileNotFoundError:  # removed meanwhile
                continue
            yield path, (found.st_size, found.st_mtime_ns)


def _inputs(study: Study, analyzed: Analyzed) -> Iterator[Path]:
    """Files that users edit: settings, folds, images and masks."""
    yield from (study.config, settings_file(study.config), study.train_paths, study.test_paths)
    for case in (*analyzed.assignment.cases, *analyzed.tests):
        yield from case.files
