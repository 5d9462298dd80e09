"""The model of each fold, and the manifest of the arrays that it is made from."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Optional

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.instance import tensorboard
from mist_dagster.partitions import StudyPartitions, fold_index
from mist_dagster.provenance import CODE_VERSION, asset_key, interruptible
from mist_dagster.runtime.executors import GPU_QUEUE
from mist_dagster.runtime.gpu import leased_devices
from mist_dagster.runtime.locks import at_work
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_ops.analysis.analyze import find_leaks
from mist_ops.analysis.folds import check_folds, make_fold
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Fold, read_train_paths
from mist_ops.errors import DatasetError, listing
from mist_ops.files import file_hash, json_hash
from mist_ops.records.arrays import read_content_hash
from mist_ops.records.passport import Epoch, read_passport
from mist_ops.study import Study

SECONDS_BETWEEN_OBSERVATIONS = 15.0


class PretrainedWeights(dg.Config):
    """Where the encoder of a network comes from that was trained before."""

    weights: str = Field(description="File of the weights.")
    config_file: str = Field(description="config.json that they were trained with.")
    input_channels: Literal["average", "first", "skip"] = Field(
        "average", description="What becomes of tensors that see the image where the numbers of channels differ."
    )


class TrainingRun(dg.Config):
    """How to run the training of a fold; what is trained stands in config.json."""

    resume: bool = Field(False, description="Go on from the last checkpoint.")
    device: Optional[str] = Field(None, description="cpu, cuda or a number; a GPU if there is one.")  # noqa: UP045
    gpus: int = Field(1, description="GPUs that train the fold together; 0 for all that are visible.")
    pretrained: Optional[PretrainedWeights] = Field(None, description="Start from other weights.")  # noqa: UP045


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The manifest and the model of each fold."""

    @dg.asset(
        key=asset_key(study, "training_set"),
        group_name=study.key,
        partitions_def=partitions.folds,
        deps=[
            dg.AssetDep(asset_key(study, "preprocessed_case"), partition_mapping=dg.AllPartitionMapping()),
            asset_key(study, "fold_assignment"),
            asset_key(study, "training_settings"),
        ],
        code_version=CODE_VERSION,
        kinds={"json"},
    )
    def training_set(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Which arrays train a fold, select its weights and are held out, by content: what staleness is told from."""
        leaking = find_leaks(study)
        if leaking:
            raise DatasetError(listing(leaking))
        fold = _fold(study, read_config(study.config), fold_index(context.partition_key))
        manifest = {
            use: {case_id: read_content_hash(study, case_id) for case_id in sorted(ids)}
            for use, ids in (("training", fold.training), ("validation", fold.validation), ("held_out", fold.held_out))
        }
        return dg.MaterializeResult(
            data_version=dg.DataVersion(json_hash(manifest)),
            metadata={**{use: len(ids) for use, ids in manifest.items()}, "manifest": dg.MetadataValue.json(manifest)},
        )

    @dg.asset(
        key=asset_key(study, "fold_model"),
        group_name=study.key,
        partitions_def=partitions.folds,
        deps=[training_set, asset_key(study, "training_settings")],
        code_version=STAGES["train"].code_version,
        pool="gpu",
        op_tags=GPU_QUEUE,
        kinds={"pytorch"},
    )
    def fold_model(
        context: dg.AssetExecutionContext, config: TrainingRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """The weights that did best on a fold's validation cases, with their passport and curves."""
        from mist_ops.training.fold import train_fold  # torch loads for seconds: only where it works
        from mist_ops.training.state import epochs_done
        from mist_ops.training.transfer import Pretrained

        settings = read_config(study.config)
        fold = _fold(study, settings, fold_index(context.partition_key))
        given = config.pretrained
        source = Pretrained(Path(given.weights), Path(given.config_file), given.input_channels) if given else None
        resume = config.resume or _was_begun(context, study.checkpoint(fold.index))
        with (
            interruptible(context),
            at_work(context.run.run_id, study, "trained", trains=[fold.index]),
            leased_devices(config.device, config.gpus, context) as devices,
        ):
            epochs = train_fold(study, settings, fold, device=devices, resume=resume, pretrained=source)
            begun = epochs_done(study.checkpoint(fold.index)) if resume else 0
            tracked = progress.track(epochs, f"Training fold {fold.index}", settings.training.epochs, _losses, begun)
            _observe(context, tracked)
        return _result(study, fold.index)

    return [training_set, fold_model]


def _fold(study: Study, settings: StudyConfig, index: int) -> Fold:
    training, assignment = settings.training, read_train_paths(study.train_paths)
    check_folds(assignment, training.nfolds)
    return make_fold(assignment, index, training.val_percent, training.seed)


def _was_begun(context: dg.AssetExecutionContext, checkpoint: Path) -> bool:
    """Whether this run repeats one whose worker was lost, and which got as far as a checkpoint.

    An older checkpoint is what that run was to replace.
    """
    root = context.run.root_run_id
    if "dagster/retry_number" not in context.run.tags or root is None or not checkpoint.is_file():
        return False
    record = context.instance.get_run_record_by_id(root)
    return record is not None and record.start_time is not None and checkpoint.stat().st_mtime > record.start_time


def _losses(epoch: Epoch) -> str:
    return f"loss {epoch.training_loss:.4f}, validation {epoch.validation_loss:.4f}"


def _observe(context: dg.AssetExecutionContext, epochs: Iterable[Epoch]) -> None:
    """Show epochs in the UI while they come, at a bounded rate: an event costs the database some 10 ms."""
    said = time.monotonic()
    for epoch in epochs:
        if time.monotonic() - said < SECONDS_BETWEEN_OBSERVATIONS:
            continue
        said = time.monotonic()
        context.log_event(
            dg.AssetObservation(
                context.asset_key,
                partition=context.partition_key,
                metadata={
                    "epoch": epoch.index,
                    "training loss": epoch.training_loss,
                    "validation loss": epoch.validation_loss,
                },
            )
        )


def _result(study: Study, fold: int) -> dg.MaterializeResult:
    from mist_ops.pictures import curve_thumbnail, learning_curves

    passport = read_passport(study.model(fold))
    pretrained = passport.pretrained
    learning_curves(study.figure(f"learning_curves_fold_{fold}"), {fold: passport.history})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_hash(study.model(fold))),
        metadata={
            "curve": metadata.picture(curve_thumbnail(passport.history)),
            "best validation loss": passport.best.validation_loss,
            "best epoch": passport.best_epoch + 1,  # as in TensorBoard, which counts from 1
            "epochs": len(passport.history),
            "seconds": passport.seconds,
            "weights": metadata.path(study.model(fold)),
            "passport": metadata.path(study.passport(fold)),
            **({"pretrained": dg.MetadataValue.json(pretrained.model_dump(mode="json"))} if pretrained else {}),
            "TensorBoard": metadata.path(study.logs(fold)),
            "TensorBoard page": dg.MetadataValue.url(tensorboard.page(study, fold)),
        },
    )
