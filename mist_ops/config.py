"""Every setting of a study, declared once.

From a field here come its place in config.json, its command-line flag, its field in the Dagster launchpad and its row
in ``docs/reference/configuration.md``. The layout and the order of keys are those of MIST's config.json; what that
lacks stands at the end of its section. Nothing about the hardware found at run time is ever written back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from mist_ops.errors import ConfigError, listing
from mist_ops.files import json_hash, read_object, write_json
from mist_ops.losses.blending import completed
from mist_ops.registry import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS, SCHEDULERS, Registry
from mist_ops.schema import Flag, Section, mistakes, read_checked
from mist_ops.types import Json

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Axis = Literal["x", "y", "z"]
PatchSize = tuple[PositiveInt, PositiveInt, PositiveInt]
TargetSpacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class DatasetInfo(Section):
    """What the study segments."""

    task: str = Field(description="Name of the task, from dataset.json.")
    modality: Literal["ct", "mr", "other"] = Field(description="Decides how intensities are normalized.")
    images: list[str] = Field(min_length=1, description="Names of the input channels, in the order the model sees.")
    labels: list[NonNegativeInt] = Field(
        min_length=2, description="Integers in the masks; class k is the k-th of them."
    )


class SpatialConfig(Section):
    """The grid the model works on; x, y, z in LPS voxel order."""

    patch_size: Annotated[PatchSize, Flag("train")] = Field(description="Patch size in voxels.")
    target_spacing: TargetSpacing = Field(description="Spacing that images are resampled to, in mm.")


class CtNormalization(Section):
    """Intensity window and z-score of a CT study, in HU; null for other modalities."""

    window_min: float | None = Field(None, description="Lower end of the window.")
    window_max: float | None = Field(None, description="Upper end of the window.")
    z_score_mean: float | None = Field(None, description="Mean that is subtracted.")
    z_score_std: NonNegativeFloat | None = Field(None, description="Standard deviation that is divided by.")


class PreprocessingConfig(Section):
    """From files to arrays."""

    skip: Annotated[bool, Flag("preprocess", "no-preprocess")] = Field(
        False, description="Only convert to NumPy: no reorientation, crop, resampling or normalization."
    )
    crop_to_foreground: bool = Field(False, description="Crop to the box of the image's foreground.")
    median_resampled_image_size: tuple[int, int, int] = Field(description="Median size after resampling, in voxels.")
    normalize_with_nonzero_mask: bool = Field(False, description="Normalize over the non-zero voxels only.")
    ct_normalization: CtNormalization = CtNormalization()
    compute_dtms: Annotated[bool, Flag("preprocess")] = Field(
        False, description="Compute a signed distance map per class, for the losses that need one."
    )
    normalize_dtms: bool = Field(True, description="Scale distance maps to [-1, 1].")
    resampling: Literal["reference", "accurate"] = Field(
        "reference",
        description="'accurate': borders continued, averaging when coarsening, non-zero mask taken before resampling. "
        "'reference': as MIST 2.3 resamples, and what a config.json without this key means.",
    )


class ModelParams(BaseModel):
    """Arguments of the architecture; those beyond the channel counts are the architecture's own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    in_channels: PositiveInt = Field(description="Number of input channels.")
    out_channels: PositiveInt = Field(description="Number of classes, background included.")


class ModelConfig(Section):
    """The network."""

    architecture: Annotated[str, Flag("train", "model")] = Field(
        "nnunet", description="Network architecture; an unknown name lists all there are."
    )
    params: ModelParams


class LossConfig(Section):
    """What training minimizes."""

    name: Annotated[str, Flag("train", "loss")] = Field(
        "dice_ce", description="Loss function; an unknown name lists all there are."
    )
    composite_loss_weighting: Json | None = Field(
        None,
        description="How a composite loss moves from overlap to its own term: name (constant, linear or cosine) and "
        "params; null for equal weights throughout.",
    )

    @field_validator("composite_loss_weighting")
    @classmethod
    def _known_weighting(cls, entry: Json | None) -> Json | None:
        try:
            return None if entry is None else completed(entry)
        except ConfigError as error:
            raise ValueError(str(error)) from error


class AugmentationConfig(Section):
    """Random changes to training patches."""

    enabled: bool = Field(True, description="Augment at all.")
    transforms: dict[str, bool] = Field(
        default_factory=lambda: dict.fromkeys(("flips", "zoom", "noise", "blur", "brightness", "contrast"), True),
        description="Each augmentation by name, on or off; rotation, gamma and low_resolution are off unless named.",
    )
    flip_axes: list[Axis] = Field(
        ["x", "y", "z"], description="Axes that flips may mirror; leave out x where labels tell left from right."
    )


class HardwareConfig(Section):
    """Wishes about the machine; what is really there is found out at run time."""

    num_gpus: NonNegativeInt | None = Field(None, description="GPUs to use; null for all that are visible.")
    num_cpu_workers: NonNegativeInt = Field(8, description="Processes that read patches, at most one a core.")
    master_addr: str = Field("localhost", description="Read for MIST's sake: processes meet on this machine.")
    master_port: PositiveInt = Field(12345, description="Read for MIST's sake: processes meet without one.")
    communication_backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="Between processes.")
    data_loader: Literal["auto", "generic", "dali"] = Field(
        "auto", description="Only 'generic' exists; others mean it."
    )
    compile: bool = Field(
        False, description="Compile the network with torch.compile; where that fails, it runs as it is and says why."
    )


class TrainingConfig(Section):
    """How a fold is trained."""

    seed: NonNegativeInt = Field(42, description="Seed of everything random.")
    nfolds: Annotated[int, Field(ge=2), Flag("analyze")] = Field(5, description="Folds of the cross-validation.")
    folds: list[NonNegativeInt] = Field([0, 1, 2, 3, 4], min_length=1, description="Folds that are trained.")
    val_percent: Annotated[Fraction, Flag("train")] = Field(
        0.0,
        description="Fraction of the training cases set aside to choose the best weights; 0 uses the held-out fold.",
    )
    epochs: Annotated[PositiveInt, Flag("train")] = Field(1000, description="Epochs per fold.")
    min_steps_per_epoch: PositiveInt = Field(250, description="Steps of an epoch, more where cases outnumber them.")
    batch_size_per_gpu: Annotated[PositiveInt, Flag("train")] = Field(2, description="Patches per step and device.")
    dali_foreground_prob: Probability | None = Field(
        0.6, description="Probability that a patch is drawn around a labelled voxel."
    )
    loss: LossConfig = LossConfig()
    optimizer: Annotated[str, Flag("train")] = Field("adamw", description="Optimizer: adam, adamw or sgd.")
    learning_rate: Annotated[PositiveFloat, Flag("train")] = Field(0.001, description="Initial learning rate.")
    lr_scheduler: Annotated[str, Flag("train")] = Field(
        "cosine", description="Learning-rate schedule: cosine, polynomial or constant."
    )
    warmup_epochs: Annotated[NonNegativeInt, Flag("train")] = Field(
        20, description="Epochs of linear warmup; where they would fill the whole run, there is none."
    )
    l2_penalty: Annotated[NonNegativeFloat, Flag("train")] = Field(0.0001, description="Weight decay.")
    grad_clip_norm: PositiveFloat = Field(1.0, description="Largest norm of the gradient.")
    amp: bool = Field(True, description="BF16 autocast where the hardware has it.")
    augmentation: AugmentationConfig = AugmentationConfig()
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def _folds_exist(self) -> TrainingConfig:
        if not set(self.folds) <= set(range(self.nfolds)) or len(set(self.folds)) != len(self.folds):
            raise ValueError(f"folds are numbered 0 to {self.nfolds - 1} and given once each, found {self.folds}")
        return self

    @property
    def effective_warmup_epochs(self) -> int:
        """Warmup that leaves epochs to train in: the default of 20 would swallow a short run.

        One of ten epochs at a hundredth of the learning rate brought nothing on hippocampus (``bench/README.md``).
        """
        return self.warmup_epochs if self.warmup_epochs < self.epochs else 0


class InfererParams(Section):
    """The sliding window."""

    patch_blend_mode: Literal["gaussian", "constant"] = Field("gaussian", description="Weights where windows overlap.")
    patch_overlap: Fraction = Field(0.5, description="Overlap of neighbouring windows.")
    sw_batch_size: PositiveInt | None = Field(
        None,
        exclude_if=lambda size: size is None,
        description="Windows per forward pass; null for twice the training batch on a GPU, one on a CPU.",
    )


class InfererConfig(Section):
    """How a whole volume is predicted from patches."""

    name: Literal["sliding_window"] = Field("sliding_window", description="Only this one exists.")
    params: InfererParams = InfererParams()


class EnsembleConfig(Section):
    """How the folds' models are combined."""

    strategy: Literal["mean"] = Field("mean", description="Mean of the probabilities.")


class TtaConfig(Section):
    """Test-time augmentation."""

    enabled: bool = Field(True, description="Average over flipped copies.")
    strategy: Literal["all_flips", "none"] = Field("all_flips", description="All combinations of flips, or none.")
    flip_axes: list[Axis] = Field(
        ["x", "y", "z"], description="Axes that are mirrored; leave out x where labels tell left from right."
    )


class InferenceConfig(Section):
    """How predictions are made."""

    inferer: InfererConfig = InfererConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    tta: TtaConfig = TtaConfig()


class EvaluationClass(Section):
    """A class that is scored: the union of some labels, and its metrics with their parameters."""

    labels: list[Annotated[int, Field(gt=0, strict=True)]] = Field(
        min_length=1, description="Labels that make up the class."
    )
    metrics: dict[str, Json] = Field(description="Metric names, each with its parameters.")


class StudyConfig(Section):
    """The whole of config.json."""

    mist_version: str = Field(description="Version that wrote the file.")
    dataset_info: DatasetInfo
    spatial_config: SpatialConfig
    preprocessing: PreprocessingConfig
    model: ModelConfig
    training: TrainingConfig
    inference: InferenceConfig = InferenceConfig()
    evaluation: dict[str, EvaluationClass]

    def digest(self, stage: str) -> str:
        """Hash of the settings that a stage reads, so that an edit outside them leaves its results current."""
        return json_hash(self.settings(stage))

    def settings(self, stage: str) -> Json:
        """The settings that a stage reads: a stage of ``STAGE_SECTIONS``."""
        whole = self.model_dump(mode="json")
        return {path: _lookup(whole, path) for path in STAGE_SECTIONS[stage]}


_GRID = ("dataset_info.images", "dataset_info.labels", "spatial_config.target_spacing")
_TRAINING = tuple(f"training.{name}" for name in TrainingConfig.model_fields if name not in ("folds", "hardware"))
STAGE_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "preprocessing": ("dataset_info.modality", *_GRID, "preprocessing"),
    "training": (*_GRID, "spatial_config.patch_size", "model", *_TRAINING, "inference.inferer"),
    "prediction": (*_GRID, "spatial_config.patch_size", "model", "preprocessing", "inference"),
    "evaluation": ("evaluation",),
}
"""What each stage reads, and so what makes its results stale."""

STEP_VERSIONS: dict[str, int] = dict.fromkeys(STAGE_SECTIONS, 1)
"""The version of what each stage computes, raised where the same files and settings give other results than before."""


def read_config(path: Path) -> StudyConfig:
    """Read a config.json, naming every mistake in it at once."""
    if not path.is_file():
        raise ConfigError(f"There is no {path}. Run mist_analyze first, or name its folder with --results.")
    try:
        return read_checked(path, StudyConfig, ConfigError)
    except ConfigError as error:
        writer = _later_version(path)
        if writer:
            raise ConfigError(f"{error} The file was written by {writer}; use that version.") from error
        raise


def _later_version(path: Path) -> str | None:
    """The version that wrote a config.json, if that is of MIST or of this program and came after this one."""
    try:
        written = str(read_object(path)["mist_version"])
        now = version(_PROGRAM) if written.startswith(_PROGRAM) else _MIST_VERSION
    except (OSError, ValueError, KeyError, PackageNotFoundError):
        return None
    return written if _numbers(written) > _numbers(now) else None


_PROGRAM, _MIST_VERSION = "mist-dagster", "2.3.0"
"""What writes a config.json, and the version of MIST whose config.json is read."""


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", text)]


def write_config(path: Path, config: StudyConfig) -> None:
    """Write a config.json in the reference's layout, atomically."""
    write_json(path, config.model_dump(mode="json"))


def override(config: StudyConfig, values: Mapping[str, Any]) -> StudyConfig:
    """Return a validated copy with values put in at dotted paths, such as ``{"training.epochs": 10}``."""
    whole = config.model_dump(mode="json")
    for path, value in values.items():
        *parents, name = path.split(".")
        section = _lookup(whole, ".".join(parents)) if parents else whole
        section[name] = value
    try:
        changed = StudyConfig.model_validate(whole)
    except ValidationError as error:
        raise ConfigError(listing(mistakes(error, StudyConfig))) from error
    if changed.training.warmup_epochs >= changed.training.epochs and "training.warmup_epochs" in values:
        raise ConfigError(
            f"warmup_epochs is {changed.training.warmup_epochs} but epochs is {changed.training.epochs}. "
            "Warmup must be shorter than the run: lower --warmup-epochs or raise --epochs."
        )
    return changed


NAMES: Mapping[str, Registry[Any]] = {
    "model.architecture": MODELS,
    "training.loss.name": LOSSES,
    "training.optimizer": OPTIMIZERS,
    "training.lr_scheduler": SCHEDULERS,
}
"""Settings that name something, by their dotted path, and where the names are known."""


def check_names(config: StudyConfig) -> None:
    """Refuse names that no registry knows, and a patch that the network cannot take, before anything is written."""
    training = config.training
    architecture = MODELS[config.model.architecture]
    architecture.check_patch_size(config.spatial_config.patch_size, config.spatial_config.target_spacing)
    for path, registry in NAMES.items():
        registry[attrgetter(path)(config)]
    for name in training.augmentation.transforms:
        AUGMENTATIONS[name]
    if "dtm" in LOSSES[training.loss.name].needs and not config.preprocessing.compute_dtms:
        raise ConfigError(
            f"The loss '{training.loss.name}' needs distance maps, but preprocessing.compute_dtms is false. "
            "Preprocess with --compute-dtms first, or choose another loss."
        )


def check_channels(config: StudyConfig) -> None:
    """Refuse a network that has not a channel for each image and each label, as an edit may have made it.

    Raises:
        ConfigError: It has more or fewer.
    """
    params, dataset = config.model.params, config.dataset_info
    for name, found, things in (("in", params.in_channels, "images"), ("out", params.out_channels, "labels")):
        wanted = len(getattr(dataset, things))
        if found != wanted:
            raise ConfigError(
                f"model.params.{name}_channels is {found}, but there are {wanted} {things}. Set it to {wanted}."
            )


def edits(before: StudyConfig, after: StudyConfig) -> dict[str, Any]:
    """The dotted paths at which two configurations differ, with the values of ``after``: ``override``'s argument."""
    old = dict(_leaves(before.model_dump(mode="json")))
    return {path: value for path, value in _leaves(after.model_dump(mode="json")) if old.get(path, _MISSING) != value}


_MISSING = object()


def _leaves(value: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in value.items():
        path = f"{prefix}{name}"
        # Free-form dictionaries (classes, metrics, augmentations) are compared whole: their keys come and go.
        if isinstance(child, dict) and path not in ("evaluation", "training.augmentation.transforms", "model.params"):
            yield from _leaves(child, f"{path}.")
        else:
            yield path, child


def _lookup(whole: Json, path: str) -> Any:
    value: Any = whole
    for name in path.split("."):
        value = value[name]
    return value
