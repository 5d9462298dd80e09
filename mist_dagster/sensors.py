"""Sensors on the files of a study; all are off by default."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from mist_dagster.stages import job_name
from mist_ops.analysis.analyze import unseen_patients
from mist_ops.config import read_config
from mist_ops.dataset import read_paths, read_train_paths
from mist_ops.errors import MistError
from mist_ops.files import json_hash, stamp
from mist_ops.study import Study

_SECONDS = 60


def study_sensors(study: Study) -> list[dg.SensorDefinition]:
    """Return a sensor that runs the checks after an edit, and one that rebuilds what became stale."""
    return [
        _sensor(study, "watch", "status", "Run the checks after an edit, to show what became out of date."),
        _sensor(study, "keep_current", "make_current", "Rebuild what an edit made out of date, models included."),
    ]


def _sensor(study: Study, name: str, stage: str, description: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{study.key}__{name}",
        job_name=job_name(study, stage),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=description,
    )
    def watching(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            stamps = {str(path): stamp(path) for path in _inputs(study) if path.is_file()}
            found = json_hash({"files": stamps, "unseen": unseen_patients(study)})
        except MistError as error:
            return dg.SkipReason(str(error))
        if context.cursor in (None, found):
            # The first tick only records a baseline.
            context.update_cursor(found)
            return dg.SkipReason("No file changed.")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=found)], cursor=found)

    return watching


def _inputs(study: Study) -> Iterator[Path]:
    """Files that users edit: settings, folds, images and masks."""
    config = read_config(study.config)
    yield from (study.config, study.train_paths, study.test_paths)
    for case in read_train_paths(study.train_paths).cases:
        yield from case.files
    if study.test_paths.is_file():
        for case in read_paths(study.test_paths, config.dataset_info.images):
            yield from case.files
