"""Masks predicted by models: training patients by the model of their fold, test patients by all folds together."""

import base64
import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Optional, cast

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import RANGE_IN_ONE_RUN, Materialized, asset_key, interruptible, materialize_each
from mist_dagster.runtime.executors import GPU_QUEUE
from mist_dagster.runtime.gpu import leased_devices, pool_of
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.memory import reserve
from mist_dagster.runtime.progress import Progress
from mist_dagster.runtime.slurm import allocation, patients
from mist_dagster.slurm.settings import SlurmSettings
from mist_dagster.stages import STAGES
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.evaluation.picture import dice_of, draw_case
from mist_ops.files import file_hash
from mist_ops.study import Study
from mist_ops.workers import Outcome

MAX_PICTURES = 50
"""Patients of a run up to which the event log has a picture of each; those of larger runs are on disk only."""


@dataclass(frozen=True)
class _Pictures:
    """Whether pictures of patients are drawn, and of how many patients."""

    drawn: bool
    patients: int

    @property
    def recorded(self) -> bool:
        """Whether the event log has them, too."""
        return self.patients <= MAX_PICTURES


class PredictionRun(dg.Config):
    """How to run predictions; config.json says how they are made."""

    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045
    figures: bool = Field(True, description="Draw slices of each patient.")


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The cross-validation predictions and the test predictions."""
    return [_cv_prediction(study, partitions), _test_prediction(study, partitions)]


def _cv_prediction(study: Study, partitions: StudyPartitions) -> dg.AssetsDefinition:
    model = dg.AssetDep(asset_key(study, "fold_model"), partition_mapping=partitions.patient_of_fold)

    @dg.asset(
        key=asset_key(study, "cv_prediction"),
        partitions_def=partitions.patients,
        deps=[model, asset_key(study, "preprocessed_case"), asset_key(study, "prediction_settings")],
        **_described(study),
    )
    def cv_prediction(
        context: dg.AssetExecutionContext, config: PredictionRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.Output[None]]:
        """A training patient's mask on the grid of the scan, by the model of the fold that held the patient out."""
        ids, settings = set(context.partition_keys), read_config(study.config)
        assignment = read_train_paths(study.train_paths)
        folds = assignment.folds_of(ids)
        with (
            interruptible(context),
            study_lock(context.run.run_id, study, "predicting", stage="predict", partitions=ids, reads=folds),
        ):
            slurm = allocation(context, study)
            # Patients of a fold one after another, so that a job loads few models.
            items = {
                case.id: case
                for fold in sorted(folds)
                for case in assignment.cases
                if case.id in ids and assignment.fold_of[case.id] == fold
            }
            here = _held_out_here(context, config, study, ids)
            with _in_jobs(context, config, study, slurm, "predict", items) if slurm else here as predicted:
                tracked = progress.track(predicted, "Predicting held-out patients", len(ids))
                shown = partial(_held_out, study, settings, _Pictures(config.figures, len(ids)))
                yield from materialize_each(context, tracked, progress, shown)

    return cast(dg.AssetsDefinition, cv_prediction)


def _test_prediction(study: Study, partitions: StudyPartitions) -> dg.AssetsDefinition:
    model = dg.AssetDep(asset_key(study, "fold_model"), partition_mapping=dg.AllPartitionMapping())

    @dg.asset(
        key=asset_key(study, "test_prediction"),
        partitions_def=partitions.test_patients,
        deps=[model, asset_key(study, "test_case"), asset_key(study, "test_prediction_settings")],
        **_described(study),
    )
    def test_prediction(
        context: dg.AssetExecutionContext, config: PredictionRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.Output[None]]:
        """A test patient's mask on the grid of the scan, by the models of all folds together."""
        ids, settings = set(context.partition_keys), read_config(study.config)
        with (
            interruptible(context),
            study_lock(
                context.run.run_id,
                study,
                "predicting",
                stage="test",
                partitions=ids,
                reads=settings.training.folds,
            ),
        ):
            slurm = allocation(context, study)
            cases = read_paths(study.test_paths, settings.dataset_info.images)
            items = {case.id: case for case in cases if case.id in ids}
            here = _tests_here(context, config, study, ids)
            with _in_jobs(context, config, study, slurm, "test", items) if slurm else here as predicted:
                tracked = progress.track(predicted, "Predicting test patients", len(ids))
                shown = partial(_tested, study, settings, _Pictures(config.figures, len(ids)))
                yield from materialize_each(context, tracked, progress, shown)

    return cast(dg.AssetsDefinition, test_prediction)


Predicted = Iterator[Outcome[Case, Mapping[str, Any] | None]]
"""Predictions; those of jobs come with their Dice and picture, as the job draws them."""


@contextlib.contextmanager
def _held_out_here(
    context: dg.AssetExecutionContext, config: PredictionRun, study: Study, ids: Collection[str]
) -> Iterator[Predicted]:
    from mist_ops.devices import resolve_device  # torch takes seconds to load
    from mist_ops.inference.study import predict_held_out

    with leased_devices(config.device, 1, context) as [device]:
        yield predict_held_out(study, ids, resolve_device(device), reserve)


@contextlib.contextmanager
def _tests_here(
    context: dg.AssetExecutionContext, config: PredictionRun, study: Study, ids: Collection[str]
) -> Iterator[Predicted]:
    from mist_ops.devices import resolve_device
    from mist_ops.inference.study import predict_tests

    with leased_devices(config.device, 1, context) as [device]:
        yield predict_tests(study, ids, resolve_device(device), reserve)


def _in_jobs(
    context: dg.AssetExecutionContext,
    config: PredictionRun,
    study: Study,
    slurm: SlurmSettings,
    stage: Literal["predict", "test"],
    items: Mapping[str, Case],
) -> contextlib.AbstractContextManager[Predicted]:
    thumbnails = config.figures and _Pictures(config.figures, len(items)).recorded
    return patients(
        context, study, slurm, stage, items, device=config.device, figures=config.figures, thumbnails=thumbnails
    )


def _described(study: Study) -> dict[str, Any]:
    return {
        "group_name": study.key,
        "code_version": STAGES["predict"].code_version,
        **RANGE_IN_ONE_RUN,
        "pool": pool_of(study),
        "op_tags": GPU_QUEUE,
        "kinds": {"pytorch"},
    }


def _held_out(
    study: Study, settings: StudyConfig, pictures: _Pictures, case: Case, of_job: Mapping[str, Any] | None
) -> Materialized:
    prediction = study.cv_prediction(case.id)
    dice = of_job["dice"] if of_job else dice_of(case, prediction, settings)
    made = _made(case, prediction, study.cv_figure(case.id), settings, dice, pictures, of_job)
    # The page itself is written by the evaluation.
    pages: metadata.Metadata = {
        "patient page": metadata.page(addresses.patient(study, case.id)),
        "page": metadata.path(study.patient_page(case.id)),
    }
    return replace(made, metadata={**pages, **made.metadata})


def _tested(
    study: Study, settings: StudyConfig, pictures: _Pictures, case: Case, of_job: Mapping[str, Any] | None
) -> Materialized:
    prediction, figure = study.test_prediction(case.id), study.figure(f"test_{case.id}")
    return _made(case, prediction, figure, settings, {}, pictures, of_job)


def _made(
    case: Case,
    prediction: Path,
    figure: Path,
    settings: StudyConfig,
    dice: Mapping[str, float],
    pictures: _Pictures,
    of_job: Mapping[str, Any] | None,
) -> Materialized:
    caption = f"**{case.id}**" + "".join(f"\n- Dice {name} **{value:.3f}**" for name, value in dice.items())
    draw = partial(draw_case, case, prediction, figure, settings, dice) if pictures.drawn else None
    if of_job and draw:
        draw = partial(base64.b64decode, of_job["picture"])  # the job has drawn the figure
    picture = dict(metadata.drawn(figure, draw, caption=caption))
    if not pictures.recorded:
        picture.pop("picture", None)
    shown: metadata.Metadata = {
        **picture,
        **{f"Dice {name}": value for name, value in dice.items()},
        "mask": metadata.path(prediction),
    }
    return Materialized(version=file_hash(prediction), metadata=shown)
