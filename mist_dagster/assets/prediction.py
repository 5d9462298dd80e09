"""Masks drawn by models: of each training patient by the model that never saw it, of test patients by all folds."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import Made, asset_key, interruptible, materialize_each
from mist_dagster.runtime.executors import GPU_QUEUE
from mist_dagster.runtime.gpu import leased_devices
from mist_dagster.runtime.locks import at_work
from mist_dagster.runtime.memory import claim
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Assignment, Case, read_paths, read_train_paths
from mist_ops.errors import CaseError
from mist_ops.evaluation.picture import dice_of, draw_case
from mist_ops.files import file_hash
from mist_ops.records.arrays import case_content
from mist_ops.records.passport import trained_on
from mist_ops.records.prediction import Origin, recording
from mist_ops.study import Study
from mist_ops.workers import Outcome, outcomes

if TYPE_CHECKING:
    from torch import nn

MAX_PICTURES = 50
"""Patients of one run whose picture goes into the event log; beyond it the pictures are on disk alone."""


class PredictionRun(dg.Config):
    """How to run predictions; what they are made with stands in config.json."""

    device: Optional[str] = Field(None, description="cpu, cuda or a number; a GPU if there is one.")  # noqa: UP045


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The cross-validation predictions and the test predictions."""
    described: dict[str, Any] = {
        "group_name": study.key,
        "code_version": STAGES["predict"].code_version,
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "output_required": False,
        "pool": "gpu",
        "op_tags": GPU_QUEUE,
        "kinds": {"pytorch"},
    }
    model, settings_key = asset_key(study, "fold_model"), asset_key(study, "prediction_settings")

    @dg.asset(
        key=asset_key(study, "cv_prediction"),
        partitions_def=partitions.patients,
        deps=[
            dg.AssetDep(model, partition_mapping=partitions.patient_of_fold),
            asset_key(study, "preprocessed_case"),
            settings_key,
        ],
        **described,
    )
    def cv_prediction(
        context: dg.AssetExecutionContext, config: PredictionRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.Output[None]]:
        """A training patient's mask by the model of the fold that held it out, on the grid of the scan."""
        settings, assignment = read_config(study.config), read_train_paths(study.train_paths)
        ids = sorted(context.partition_keys, key=lambda case_id: (assignment.fold_of[case_id], case_id))
        folds = {assignment.fold_of[case_id] for case_id in ids}
        with at_work(context.run.run_id, study, "predicted", uses=folds), _device(context, config) as device:
            predicted = _by_fold(study, settings, assignment, ids, device)
            tracked = progress.track(predicted, "Predicting held-out patients", len(ids))
            materialize_each(context, tracked, progress, partial(_held_out, study, settings, len(ids) <= MAX_PICTURES))
        yield from ()

    @dg.asset(
        key=asset_key(study, "test_prediction"),
        partitions_def=partitions.test_patients,
        deps=[
            dg.AssetDep(model, partition_mapping=dg.AllPartitionMapping()),
            asset_key(study, "test_case"),
            settings_key,
        ],
        **described,
    )
    def test_prediction(
        context: dg.AssetExecutionContext, config: PredictionRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.Output[None]]:
        """A test patient's mask by the models of all folds together, on the grid of the scan."""
        settings, wanted = read_config(study.config), set(context.partition_keys)
        cases = [case for case in read_paths(study.test_paths, settings.dataset_info.images) if case.id in wanted]
        with (
            at_work(context.run.run_id, study, "predicted", uses=settings.training.folds),
            _device(context, config) as device,
        ):
            predicted = _by_all_folds(study, settings, cases, device)
            tracked = progress.track(predicted, "Predicting test patients", len(cases))
            materialize_each(context, tracked, progress, partial(_tested, study, settings, len(cases) <= MAX_PICTURES))
        yield from ()

    return [cv_prediction, test_prediction]


@contextlib.contextmanager
def _device(context: dg.AssetExecutionContext, config: PredictionRun) -> Iterator[str]:
    with interruptible(context), leased_devices(config.device, 1, context) as [device]:
        yield device


def _by_fold(
    study: Study, settings: StudyConfig, assignment: Assignment, ids: list[str], device: str
) -> Iterator[Outcome[Case, None]]:
    """Predict fold by fold, so that one model at a time is in memory."""
    from mist_ops.devices import resolve_device  # torch loads for seconds: only where it works
    from mist_ops.inference.case import load_models, predict_case

    where = resolve_device(device)
    for fold in sorted({assignment.fold_of[case_id] for case_id in ids}):
        models, weights = load_models(study, settings, [fold]), {fold: file_hash(study.model(fold))}
        seen = trained_on(study.model(fold))

        def predict(
            case: Case,
            models: Sequence["nn.Module"] = models,
            weights: Mapping[int, str] = weights,
            seen: Collection[str] = seen,
        ) -> None:
            origin = Origin(weights, settings.digest("prediction"), case_content(study, case.id))
            mask = study.cv_prediction(case.id)
            with recording(study.prediction_record("train", case.id), mask, origin):
                if case.id in seen:
                    raise CaseError(case.id, "the model of its fold was trained with it. Train that fold again.")
                predict_case(models, case, settings, where, mask, study, admit=claim)

        yield from outcomes(predict, [assignment[case_id] for case_id in ids if assignment.fold_of[case_id] == fold])


def _by_all_folds(
    study: Study, settings: StudyConfig, cases: Sequence[Case], device: str
) -> Iterator[Outcome[Case, None]]:
    from mist_ops.devices import resolve_device
    from mist_ops.inference.case import load_models, predict_case

    where = resolve_device(device)
    models = load_models(study, settings, settings.training.folds)
    weights = {fold: file_hash(study.model(fold)) for fold in settings.training.folds}

    def predict(case: Case) -> None:
        origin, mask = (
            Origin(weights, settings.digest("prediction"), images=case.images),
            study.test_prediction(case.id),
        )
        with recording(study.prediction_record("test", case.id), mask, origin):
            predict_case(models, case, settings, where, mask, admit=claim)

    yield from outcomes(predict, cases)


def _held_out(study: Study, settings: StudyConfig, with_picture: bool, case: Case, _: None) -> Made:
    prediction, figure = study.cv_prediction(case.id), study.cv_figure(case.id)
    made = _made(case, prediction, figure, settings, dice_of(case, prediction, settings), with_picture)
    # Its page is written when all are scored.
    return replace(made, metadata={**made.metadata, "page": metadata.path(study.patient_page(case.id))})


def _tested(study: Study, settings: StudyConfig, with_picture: bool, case: Case, _: None) -> Made:
    prediction, figure = study.test_prediction(case.id), study.figure(f"test_{case.id}")
    return _made(case, prediction, figure, settings, {}, with_picture)


def _made(
    case: Case, prediction: Path, figure: Path, settings: StudyConfig, dice: Mapping[str, float], with_picture: bool
) -> Made:
    thumbnail = draw_case(case, prediction, figure, settings, dice)
    caption = f"**{case.id}**" + "".join(f"\n- Dice {name} **{value:.3f}**" for name, value in dice.items())
    picture: metadata.Metadata = {"picture": metadata.picture(thumbnail, caption)} if with_picture else {}
    scores = {f"Dice {name}": value for name, value in dice.items()}
    shown: metadata.Metadata = {
        **picture,
        **scores,
        "mask": metadata.path(prediction),
        "figure": metadata.path(figure),
    }
    return Made(version=file_hash(prediction), metadata=shown)
