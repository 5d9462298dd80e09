"""Scores of the cross-validation predictions."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.busy import at_work
from mist_dagster.progress import Progress
from mist_dagster.provenance import Inputs, asset_key, code_version, collect, hashed, interruptible, listed
from mist_ops.config import STEP_VERSIONS, StudyConfig, read_config
from mist_ops.dataset import Assignment, read_train_paths
from mist_ops.errors import ConfigError, few
from mist_ops.evaluation.pages import Model, write_pages
from mist_ops.evaluation.picture import draw_scores
from mist_ops.evaluation.score import CaseScores, check_classes
from mist_ops.evaluation.table import Pair, evaluate, read_summary, worst_first, write_evaluation, write_pairs
from mist_ops.files import file_hash
from mist_ops.inference.records import read_models
from mist_ops.study import Study
from mist_ops.training.passports import read_passport


class EvaluationRun(dg.Config):
    """How to run the evaluation; what is measured stands in config.json."""

    workers: int = Field(1, description="Processes that score cases.")


_SCORED_ANEW = dg.AutomationCondition.any_deps_updated() & ~dg.AutomationCondition.in_progress()
"""Under the sensor ``default_automation_condition_sensor``, which is off until somebody switches it on."""


def evaluation_assets(study: Study) -> list[dg.AssetsDefinition]:
    """results.csv."""

    @dg.asset(
        key=asset_key(study, "evaluation"),
        group_name=study.name,
        deps=[asset_key(study, name) for name in ("cv_prediction", "raw_case", "evaluation_settings")],
        code_version=code_version("evaluation"),
        automation_condition=_SCORED_ANEW,
        kinds={"csv"},
        check_specs=[dg.AssetCheckSpec("every_patient_scored", asset=asset_key(study, "evaluation"))],
    )
    def evaluation(
        context: dg.AssetExecutionContext, config: EvaluationRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Each patient's scores against its mask, and their summary."""
        settings, assignment = read_config(study.config), read_train_paths(study.train_paths)
        check_classes(settings.evaluation, settings.dataset_info.labels)
        expected = _expected(study, assignment)
        pairs = [pair for pair in expected if pair.prediction.exists()]
        inputs = hashed(
            config=[study.config],
            models=[study.model(fold) for fold in settings.training.folds],
            masks=[pair.mask for pair in pairs],
            predictions=[pair.prediction for pair in pairs],
        )
        write_pairs(study.evaluation_paths, pairs)
        with interruptible(context), at_work(context.run.run_id, study, "scored"):
            scored = progress.track(evaluate(pairs, settings.evaluation, config.workers), "Evaluating", len(pairs))
            rows, failures = collect(scored, progress)
            missing, plot = _write(study, settings, assignment, expected, rows, failures, inputs)
        if failures:
            raise dg.Failure(f"{len(failures)} of {len(pairs)} patients could not be scored: {few(list(failures))}.")
        return _result(study, rows, missing, plot, inputs)

    return [evaluation]


def _expected(study: Study, assignment: Assignment) -> list[Pair]:
    """The patients with a mask who are predicted, or whose fold has a model and so should be."""
    found = [Pair(case.id, case.mask, study.cv_prediction(case.id)) for case in assignment.cases if case.mask]
    return [pair for pair in found if pair.prediction.exists() or study.model(assignment.fold_of[pair.id]).exists()]


def _models(study: Study, assignment: Assignment, ids: Iterable[str]) -> Iterator[tuple[str, Model]]:
    """The model that predicted each patient, if a passport tells of those very weights."""
    known = {}
    for fold in set(assignment.fold_of.values()):
        with contextlib.suppress(ConfigError):
            passport = read_passport(study.model(fold))
            weights = str(passport["weights"])
            known[weights] = Model(weights, passport["best_epoch"] + 1, len(passport["history"]))
    for case_id in ids:
        used = read_models(study.prediction_record("train", case_id)).get(assignment.fold_of[case_id])
        if used in known:
            yield case_id, known[used]


def _write(
    study: Study,
    settings: StudyConfig,
    assignment: Assignment,
    expected: Sequence[Pair],
    rows: Mapping[str, CaseScores],
    failures: Mapping[str, str],
    inputs: Inputs,
) -> tuple[list[str], bytes]:
    """Write tables, plot and pages; return the patients without scores, and the plot in small."""
    classes, task = settings.evaluation, settings.dataset_info.task
    made_from = {
        "settings": settings.digest("evaluation"),
        "version": STEP_VERSIONS["evaluation"],
        **_by_id([pair for pair in expected if pair.prediction.exists()], inputs),
    }
    unpredicted = {
        pair.id: f"Case '{pair.id}': it is not predicted." for pair in expected if not pair.prediction.exists()
    }
    write_evaluation(study.results_csv, expected, classes, rows, {**failures, **unpredicted}, inputs=made_from)
    missing = [case.id for case in assignment.cases if case.id not in rows]
    plot = draw_scores(rows, missing, classes, study.figure("scores"), task)
    write_pages(study, task, assignment, classes, rows, dict(_models(study, assignment, rows)))
    return missing, plot


def _result(
    study: Study, rows: Mapping[str, CaseScores], missing: list[str], plot: bytes, inputs: Inputs
) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_hash(study.results_csv)),
        metadata={
            "file": metadata.path(study.results_csv),
            "scores": metadata.picture(plot),
            "figure": metadata.path(study.figure("scores")),
            "patients, worst first": metadata.path(study.patient_index),
            "inputs": listed(inputs),
            "patients": len(rows),
            **metadata.means(read_summary(study.results_csv)),
            "lowest first": metadata.table(worst_first(rows)),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=not missing,
                check_name="every_patient_scored",
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"not predicted yet": dg.MetadataValue.json(missing)},
            )
        ],
    )


def _by_id(pairs: Sequence[Pair], inputs: Inputs) -> dict[str, dict[str, str | None]]:
    """The hashes of masks and predictions by id and not by path, so that results may be moved."""
    return {
        "masks": {pair.id: inputs["masks"].get(str(pair.mask)) for pair in pairs},
        "predictions": {pair.id: inputs["predictions"].get(str(pair.prediction)) for pair in pairs},
    }
