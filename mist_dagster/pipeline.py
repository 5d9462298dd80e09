"""Making a study current: each stage for just the partitions that a status names. What is out of date, status tells."""

from collections.abc import Mapping
from typing import Any

from mist_dagster.freshness.checks import PlanRun
from mist_dagster.freshness.outputs import make_outputs
from mist_dagster.freshness.status import Status, status, told_unused, unused
from mist_dagster.launch import Launcher, ask_for_reload, others_first
from mist_dagster.partitions import fold_key
from mist_dagster.provenance import adopt_config
from mist_dagster.runtime.gpu import ALL_GPUS
from mist_ops.analysis.analyze import read_fingerprint
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study


def make_current(launcher: Launcher, study: Study, found: Status, how: PlanRun) -> None:
    """Make what a status found to be out of date, and nothing else.

    Raises:
        RunFailedError: A run failed; the stages after it were not begun.
        RunCanceledError: A run was interrupted.
    """
    if found.unseen:
        analyze_anew(launcher, study, {"workers": how.preprocess_workers})
        found = status(study)
    config, device = read_config(study.config), {"device": how.device} if how.device else {}
    adopt_config(launcher.instance, study, config, "config.json was edited")
    if study.data and not found.current:
        launcher.run_stage(study, "observe")
    if found.patients:
        launcher.run_stage(study, "preprocess", {"workers": how.preprocess_workers}, list(found.patients))
        found = status(study)  # arrays that came out as they were make no model out of date
    training: dict[str, Any] = {"resume": False, "gpus": config.training.hardware.num_gpus or ALL_GPUS, **device}
    for fold in found.folds:
        launcher.run_stage(study, "train", training, [fold_key(fold)])
    with others_first() as waiting:
        if found.predictions:
            with waiting():
                launcher.run_stage(study, "predict", device, list(found.predictions))
        if found.scores:
            with waiting():
                launcher.run_stage(study, "evaluate", {"workers": how.evaluate_workers})
        if found.tests:
            if study.data:
                launcher.run_stage(study, "observe_tests")
            launcher.run_stage(study, "test", device, list(found.tests))
    make_outputs(launcher, study, status(study))
    show_status(launcher, study)


def analyze_anew(launcher: Launcher, study: Study, how: Mapping[str, Any]) -> None:
    """Analyze a study, and tell what was left out or should be known."""
    launcher.run_stage(study, "observe")
    launcher.run_stage(study, "analyze", how)
    ask_for_reload()
    fingerprint = read_fingerprint(study)
    for case_id, reasons in fingerprint.excluded.items():
        launcher.progress.problem(f"Left out: case '{case_id}': {'; '.join(reason.rstrip('.') for reason in reasons)}.")
    for warning in fingerprint.warnings:
        launcher.progress.note(f"Warning: {warning}")
    for sentence in told_unused(unused(study, read_config(study.config), read_train_paths(study.train_paths))):
        launcher.progress.note(sentence)
    launcher.progress.note(f"Analysis complete: {study.config}")


def show_status(launcher: Launcher, study: Study) -> None:
    """Have the checks in the UI say what is out of date now; they know of no edit until they run."""
    launcher.run_stage(study, "status")
