"""The model of each fold, and the manifest of the arrays that it depends on."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Optional

import dagster as dg
from pydantic import Field, create_model

from mist_dagster import metadata
from mist_dagster.assets.launchpad import Overrides, fields
from mist_dagster.instance import addresses, tensorboard
from mist_dagster.instance.studies import owner_of_arrays
from mist_dagster.partitions import StudyPartitions, fold_index
from mist_dagster.provenance import CODE_VERSION, asset_key, interruptible, upstream_tags
from mist_dagster.runtime.executors import GPU_QUEUE
from mist_dagster.runtime.gpu import leased_devices, pool_of
from mist_dagster.runtime.locks import settings_lock, study_lock
from mist_dagster.runtime.progress import Progress
from mist_dagster.runtime.slurm import allocation, trained
from mist_dagster.slurm.settings import SlurmSettings
from mist_dagster.stages import STAGES
from mist_dagster.stages.settings import configure, overridden
from mist_ops.analysis.analyze import find_leaks
from mist_ops.analysis.folds import check_folds, make_fold
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Fold, read_train_paths
from mist_ops.errors import ConfigError, DatasetError, counted, listing
from mist_ops.files import file_hash, json_hash
from mist_ops.records.passport import Epoch, Passport, read_passport
from mist_ops.records.source import check_arrays, check_dataset
from mist_ops.study import Study
from mist_ops.training.attempts import epochs_to_resume
from mist_ops.training.manifest import manifest
from mist_ops.training.plan import Plan
from mist_ops.training.pretrained import Pretrained, present_model

SECONDS_BETWEEN_OBSERVATIONS = 15.0


class PretrainedWeights(dg.Config):
    """Weights from which the encoder of a network starts."""

    weights: str = Field(description="Weights file.")
    config_file: str = Field(description="config.json that the weights were trained with.")
    input_channels: Literal["average", "first", "skip"] = Field(
        "average", description="How to adapt the first layer to another number of input channels."
    )

    def source(self) -> Pretrained:
        """The same as ``mist_ops`` wants it."""
        return Pretrained(Path(self.weights), Path(self.config_file), self.input_channels)


TrainingOverrides: Any = create_model(
    "TrainingOverrides",
    __base__=Overrides,
    __doc__="Settings to change before the training.",
    **fields(("epochs", "loss", "model", "learning_rate", "patch_size")),
)
"""Run config of the settings that are changed most often; None leaves config.json as it is."""


class TrainingRun(dg.Config):
    """How to run the training of a fold; config.json says what is trained."""

    resume: Optional[bool] = Field(  # noqa: UP045
        None,
        description="true: resume the last training, finished or not. false: start from scratch. By default an "
        "unfinished training is resumed if its settings and data still match.",
    )
    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045
    gpus: int = Field(1, description="GPUs that train the fold together; 0 for all visible ones.")
    pretrained: Optional[PretrainedWeights] = Field(None, description="Start from other weights.")  # noqa: UP045
    warm_start: bool = Field(False, description="Start from the present model of the fold, if it has one.")
    figures: bool = Field(True, description="Draw the learning curves.")
    settings: Optional[TrainingOverrides] = Field(  # noqa: UP045
        None,
        description="Settings to write to config.json before the training, as the flags of mist_train do; by default "
        "it stays as it is. They are those of the study: models of other folds trained with other settings become "
        "stale.",
    )


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The manifest and the model of each fold."""
    return [_training_set(study, partitions), _fold_model(study, partitions)]


def _training_set(study: Study, partitions: StudyPartitions) -> dg.AssetsDefinition:
    arrays = dg.AssetDep(asset_key(study, "preprocessed_case"), partition_mapping=dg.AllPartitionMapping())

    @dg.asset(
        key=asset_key(study, "training_set"),
        group_name=study.key,
        partitions_def=partitions.folds,
        deps=[arrays, asset_key(study, "fold_assignment"), asset_key(study, "training_settings")],
        code_version=CODE_VERSION,
        kinds={"json"},
    )
    def training_set(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Content of the arrays that train a fold, select its weights and are held out; its model depends on this."""
        settings = read_config(study.config)
        made_from = manifest(study, _fold(context, study, fold_index(context.partition_key), settings), settings)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(json_hash(made_from)),
            metadata={
                **{use: len(ids) for use, ids in made_from.items()},
                "manifest": dg.MetadataValue.json(made_from),
            },
        )

    return training_set


def _fold_model(study: Study, partitions: StudyPartitions) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(study, "fold_model"),
        group_name=study.key,
        partitions_def=partitions.folds,
        deps=[asset_key(study, "training_set"), asset_key(study, "training_settings")],
        code_version=STAGES["train"].code_version,
        pool=pool_of(study),
        op_tags=GPU_QUEUE,
        kinds={"pytorch"},
    )
    def fold_model(
        context: dg.AssetExecutionContext, config: TrainingRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """The weights with the best validation loss of a fold, with their passport and curves."""
        index = fold_index(context.partition_key)
        source = config.pretrained.source() if config.pretrained else None
        with (
            interruptible(context),
            study_lock(
                context.run.run_id,
                study,
                "training",
                stage="train",
                partitions=[context.partition_key],
                writes=[index],
            ),
        ):
            given = config.settings.overrides() if config.settings else {}
            settings = overridden(read_config(study.config), given)
            fold = _fold(context, study, index, settings)
            if config.warm_start and source is None:
                source = present_model(study, fold)
            slurm = allocation(context, study)
            resume, done = _to_resume(context, config, study, fold, settings, slurm)
            if source and not slurm:
                from mist_ops.training.transfer import check  # torch takes seconds to load

                check(source, settings)
            settings, tags = _configured(context, study, given)
            plan = Plan(study, settings, fold, resume, pretrained=source)
            here = _trained_here(context, config, plan)
            with trained(context, slurm, plan, config.device) if slurm else here as epochs:
                tracked = progress.track(epochs, f"Training fold {index}", settings.training.epochs, _losses, done)
                _observe(context, study, tracked)
        return _result(study, index, tags, figures=config.figures)

    return fold_model


@contextlib.contextmanager
def _trained_here(context: dg.AssetExecutionContext, config: TrainingRun, plan: Plan) -> Iterator[Iterable[Epoch]]:
    """Train a fold on devices of this machine."""
    from mist_ops.training.fold import train_fold  # torch takes seconds to load

    with leased_devices(config.device, config.gpus, context, "training") as devices:
        yield train_fold(
            plan.study, plan.config, plan.fold, device=devices, resume=plan.resume, pretrained=plan.pretrained
        )


def _to_resume(
    context: dg.AssetExecutionContext,
    config: TrainingRun,
    study: Study,
    fold: Fold,
    settings: StudyConfig,
    slurm: SlurmSettings | None,
) -> tuple[bool, int]:
    """Whether a run resumes, and after how many epochs; without torch if a job of Slurm does the work."""
    if not slurm:
        return _resumed(context, config, study, fold, settings)
    done = epochs_to_resume(study, settings, fold)
    wanted = config.resume is None or config.resume or _began(context, study.attempt(fold.index))
    return bool(config.resume) or (wanted and done > 0), done if wanted else 0


def _configured(
    context: dg.AssetExecutionContext, study: Study, given: Mapping[str, Any]
) -> tuple[StudyConfig, dict[str, str]]:
    """Write the settings of the launchpad to config.json; return the configuration, and tags with its recorded version.

    Dagster took the versions of the inputs when the step started, before the settings changed.
    """
    key = asset_key(study, "training_settings")
    with settings_lock(study):
        if not given:
            return read_config(study.config), upstream_tags(context.instance, key)
        settings = configure(context.instance, study, given, "launchpad")
        tags = upstream_tags(context.instance, key)
    _record_training_set(context, study, tags)
    return settings, tags


def _record_training_set(context: dg.AssetExecutionContext, study: Study, tags: Mapping[str, str]) -> None:
    """Record the manifest that this run made before the settings changed as made with them: it has none of them."""
    of_fold = dg.AssetRecordsFilter(asset_key(study, "training_set"), asset_partitions=[context.partition_key])
    for record in context.instance.fetch_materializations(of_fold, 1).records:
        made = record.asset_materialization
        if made and record.run_id == context.run.run_id and not tags.items() <= (made.tags or {}).items():
            context.log_event(made._replace(tags={**(made.tags or {}), **tags}))


def _fold(context: dg.AssetExecutionContext, study: Study, index: int, config: StudyConfig) -> Fold:
    """The cases of a fold.

    Raises:
        DatasetError: Some of them are also held out, as the check ``no_leakage`` reports; or the dataset is missing or
            another one.
        ConfigError: The arrays are those of another study.
    """
    warnings = check_dataset(study)
    leaks = find_leaks(study)
    if leaks:
        raise DatasetError(listing(leaks), code="folds-leak", file=study.train_paths, found=leaks)
    training, assignment = config.training, read_train_paths(study.train_paths)
    check_folds(assignment, training.nfolds)
    check_arrays(study, assignment.cases, owner_of_arrays(study))
    for warning in warnings:
        context.log.warning(warning)
    return make_fold(assignment, index, training.val_percent, training.seed_of_validation, training.validation_cases)


def _resumed(
    context: dg.AssetExecutionContext, config: TrainingRun, study: Study, fold: Fold, settings: StudyConfig
) -> tuple[bool, int]:
    """Whether a run resumes, and after how many epochs.

    A run that is executed again resumes what it began, also if it was asked to start from scratch at first.
    """
    from mist_ops.training.attempts import resumable
    from mist_ops.training.plan import run_settings
    from mist_ops.training.state import changes_on_resuming, epochs_done

    attempt = study.attempt(fold.index)
    if config.resume:
        checkpoint = resumable(study, fold.index)
        if not checkpoint:
            return True, 0
        changes_on_resuming(checkpoint, run_settings(study, settings, fold))
        return True, epochs_done(checkpoint)
    wanted = attempt.is_file() and (config.resume is None or _began(context, attempt))
    if not wanted or not _matches(context, attempt, study, fold, settings):
        return False, 0
    done = epochs_done(attempt)
    context.log.info(f"Fold {fold.index} resumes its unfinished training after {counted(done, 'epoch')}.")
    return True, done


def _matches(context: dg.AssetExecutionContext, attempt: Path, study: Study, fold: Fold, settings: StudyConfig) -> bool:
    """Whether an unfinished training can be resumed with the present settings and data."""
    from mist_ops.training.plan import run_settings
    from mist_ops.training.state import changes_on_resuming

    try:
        changes_on_resuming(attempt, run_settings(study, settings, fold))
    except ConfigError as error:
        context.log.info(f"Fold {fold.index} starts from scratch: {error.message}")
        return False
    return True


def _began(context: dg.AssetExecutionContext, attempt: Path) -> bool:
    """Whether this run re-executes one that left an unfinished training; an older one it was to replace."""
    root = context.run.root_run_id
    if root is None or root == context.run.run_id:
        return False
    record = context.instance.get_run_record_by_id(root)
    return record is not None and record.start_time is not None and attempt.stat().st_mtime > record.start_time


def _losses(epoch: Epoch) -> str:
    return epoch.summary


def _observe(context: dg.AssetExecutionContext, study: Study, epochs: Iterable[Epoch]) -> None:
    """Log epochs to the UI as they come, at a bounded rate: an event takes about 10 ms."""
    logged = time.monotonic()
    for epoch in epochs:
        if time.monotonic() - logged < SECONDS_BETWEEN_OBSERVATIONS:
            continue
        logged = time.monotonic()
        context.log_event(
            dg.AssetObservation(
                context.asset_key,
                partition=context.partition_key,
                metadata={
                    "curves": metadata.page(addresses.training(study)),
                    "epoch": epoch.index + 1,
                    "training loss": epoch.training_loss,
                    "seconds": epoch.seconds,
                    "waiting for data": epoch.waiting,
                    **({} if epoch.validation_loss is None else {"validation loss": epoch.validation_loss}),
                },
            )
        )


def _curves(study: Study, fold: int, passport: Passport) -> bytes:
    from mist_ops.pictures import learning_curves

    return learning_curves(study.figure(f"learning_curves_fold_{fold}"), {fold: passport.history})


def _result(study: Study, fold: int, tags: Mapping[str, str], *, figures: bool) -> dg.MaterializeResult:
    passport = read_passport(study.model(fold))
    pretrained = passport.pretrained
    file = study.figure(f"learning_curves_fold_{fold}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_hash(study.model(fold))),
        tags=tags,
        metadata={
            "curves": metadata.page(addresses.training(study)),
            **metadata.drawn(file, partial(_curves, study, fold, passport) if figures else None, "curve"),
            "best validation loss": passport.best_loss,
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
