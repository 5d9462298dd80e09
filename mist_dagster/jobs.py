"""A job per stage of a study: what a command runs, and what the launchpad offers."""

from collections.abc import Mapping, Sequence

import dagster as dg

from mist_dagster.dagster_private import UnresolvedAssetJobDefinition
from mist_dagster.provenance import asset_key
from mist_ops.analysis.verify import GATES
from mist_ops.study import Study

STAGES: Mapping[str, Sequence[str]] = {
    "observe": ("raw_case",),
    "observe_tests": ("test_case",),
    "analyze": (
        "dataset",
        "study_config",
        "fold_assignment",
        "preprocessing_settings",
        "training_settings",
        "prediction_settings",
        "evaluation_settings",
    ),
    "dump": ("data_dump",),
    "preprocess": ("preprocessed_case",),
    "train": ("training_set", "fold_model"),
    "predict": ("cv_prediction",),
    "evaluate": ("evaluation",),
    "choose_postprocessing": ("postprocessing_strategy",),
    "test": ("test_prediction",),
}
"""The assets that each stage makes."""


def job_name(study: Study, stage: str) -> str:
    """The name of a stage's job."""
    return f"{study.key}__{stage}"


IN_SYNC = "in_sync"
"""Name of the checks that say what is out of date."""

CHECKED = ("study_config", "preprocessed_case", "fold_model", "cv_prediction", "test_prediction", "evaluation")
"""The assets that have one."""


def in_sync_checks(study: Study, names: Sequence[str] = CHECKED) -> list[dg.AssetCheckKey]:
    """The keys of those checks, of some assets or of all."""
    return [dg.AssetCheckKey(asset_key(study, name), IN_SYNC) for name in names if name in CHECKED]


def raw_case_checks(study: Study) -> list[dg.AssetCheckKey]:
    """The keys of the checks that read every file of every patient."""
    return [dg.AssetCheckKey(asset_key(study, "raw_case"), gate) for gate in GATES]


def _selection(study: Study, names: Sequence[str]) -> dg.AssetSelection:
    """Some assets with their checks, but for those that look at the whole study: what is out of date, every file."""
    assets = dg.AssetSelection.assets(*(asset_key(study, name) for name in names))
    return assets - dg.AssetSelection.checks(*in_sync_checks(study, names), *raw_case_checks(study))


def stage_tags(study: Study, stage: str) -> dict[str, str]:
    """The tags of a stage's runs; what takes minutes leaves the queue before trainings that take days."""
    return {"mist/study": study.key, "mist/stage": stage, "dagster/priority": "0" if stage == "train" else "1"}


def study_jobs(study: Study) -> list[UnresolvedAssetJobDefinition]:
    """The jobs of a study, in the order in which its stages follow one another."""
    selections = {stage: _selection(study, names) for stage, names in STAGES.items()}
    selections["verify"] = dg.AssetSelection.checks(*raw_case_checks(study))
    selections["status"] = dg.AssetSelection.checks(*in_sync_checks(study))
    return [
        dg.define_asset_job(job_name(study, stage), selection=selection, tags=stage_tags(study, stage))
        for stage, selection in selections.items()
    ]
