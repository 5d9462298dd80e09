"""Scores of the cross-validation predictions."""

import contextlib
from collections.abc import Iterator, Mapping

import dagster as dg
from pydantic import Field, TypeAdapter

from mist_dagster import metadata
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import Inputs, asset_key, collect, hashed, interruptible, listed
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.progress import Progress
from mist_dagster.runtime.slurm import allocation, patients
from mist_dagster.slurm.settings import SlurmSettings
from mist_dagster.stages import STAGES
from mist_ops.errors import counted, few
from mist_ops.evaluation.score import CaseScores
from mist_ops.evaluation.study import StudyEvaluation, Written, open_evaluation
from mist_ops.evaluation.table import Pair, read_summary, worst_first
from mist_ops.files import file_hash
from mist_ops.study import Study
from mist_ops.workers import Outcome


class EvaluationRun(dg.Config):
    """How to run the evaluation; config.json holds what is measured."""

    workers: int = Field(1, description="Processes that score cases.")
    figures: bool = Field(True, description="Draw the distribution of the scores.")


_WHEN_INPUTS_CHANGE = dg.AutomationCondition.any_deps_updated() & ~dg.AutomationCondition.in_progress()
"""Takes effect once the sensor ``default_automation_condition_sensor`` is switched on; it is off by default."""


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """results.csv."""

    @dg.asset(
        key=asset_key(study, "evaluation"),
        group_name=study.key,
        deps=[asset_key(study, name) for name in ("cv_prediction", "raw_case", "evaluation_settings")],
        code_version=STAGES["evaluate"].code_version,
        automation_condition=_WHEN_INPUTS_CHANGE,
        kinds={"csv"},
        check_specs=[
            dg.AssetCheckSpec(
                "every_patient_scored",
                asset=asset_key(study, "evaluation"),
                description="Every patient of a trained fold has a prediction, and so a score.",
            )
        ],
    )
    def evaluation(
        context: dg.AssetExecutionContext, config: EvaluationRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Scores of each patient's held-out prediction against its mask, and their summary."""
        task = open_evaluation(study)
        inputs = hashed(**task.inputs)
        with interruptible(context), study_lock(context.run.run_id, study, "evaluating", stage="evaluate"):
            slurm = allocation(context, study)
            with _scored_in_jobs(context, task, slurm) if slurm else _scored_here(task, config) as outcomes:
                rows, failures = collect(progress.track(outcomes, "Evaluating", len(task.pairs)), progress)
            written = task.write(rows, failures, inputs, figures=config.figures)
        if failures:
            patients = counted(len(task.pairs), "patient")
            raise dg.Failure(f"{len(failures)} of {patients} could not be scored: {few(list(failures))}.")
        return _result(study, rows, written, inputs)

    return [evaluation]


def _scored_here(
    task: StudyEvaluation, config: EvaluationRun
) -> contextlib.AbstractContextManager[Iterator[Outcome[Pair, CaseScores]]]:
    return contextlib.nullcontext(task.score(config.workers))


@contextlib.contextmanager
def _scored_in_jobs(
    context: dg.AssetExecutionContext, task: StudyEvaluation, slurm: SlurmSettings
) -> Iterator[Iterator[Outcome[Pair, CaseScores]]]:
    task.prepare()
    scores = TypeAdapter(CaseScores)
    with patients(context, task.study, slurm, "evaluate", {pair.id: pair for pair in task.pairs}) as outcomes:
        yield (
            outcome if outcome.error else Outcome(outcome.item, scores.validate_python(outcome.result))
            for outcome in outcomes
        )


def _plot(study: Study, thumbnail: bytes | None) -> metadata.Metadata:
    if thumbnail is None:
        return {}
    return {"scores": metadata.picture(thumbnail), "figure": metadata.path(study.figure("scores"))}


def _result(study: Study, rows: Mapping[str, CaseScores], written: Written, inputs: Inputs) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_hash(study.results_csv)),
        metadata={
            "study page": metadata.page(addresses.home(study)),
            "all patients": metadata.page(addresses.patients(study)),
            "plot": metadata.page(addresses.scores_picture(study)),
            "file": metadata.path(study.results_csv),
            **_plot(study, written.plot),
            "patients, worst first": metadata.path(study.patient_index),
            "inputs": listed(inputs),
            "patients": len(rows),
            **metadata.means(read_summary(study.results_csv)),
            "lowest first": metadata.table(worst_first(rows)),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=not written.missing,
                check_name="every_patient_scored",
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"not predicted yet": dg.MetadataValue.json(list(written.missing))},
            )
        ],
    )
