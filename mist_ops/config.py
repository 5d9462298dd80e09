"""Every setting of a study, declared once.

Each field here gives a key of config.json, a command-line flag, a field of the Dagster launchpad and a row of
``docs/reference/configuration.md``. The layout and the order of keys are those of MIST's config.json; settings that
MIST lacks are at the end of their section. The hardware detected at run time is never written back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
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
from pydantic.fields import FieldInfo

from mist_ops.errors import ConfigError, counted
from mist_ops.files import read_object, write_json
from mist_ops.losses.blending import completed
from mist_ops.registry import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS, SCHEDULERS, Registry
from mist_ops.schema import Flag, Section, read_checked, refusal
from mist_ops.study import Study
from mist_ops.types import Json

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Percentage = Annotated[
    float, Field(ge=0.0, lt=100.0), AfterValidator(lambda value: value if value < 1 else value / 100)
]
"""A fraction, given as such or, from 1 on, in percent."""

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Axis = Literal["x", "y", "z"]
PatchSize = tuple[PositiveInt, PositiveInt, PositiveInt]
TargetSpacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class DatasetInfo(Section):
    """What the study segments."""

    task: str = Field(description="Name of the task, from dataset.json.")
    modality: Literal["ct", "mr", "other"] = Field(description="How intensities are normalized.")
    images: list[str] = Field(min_length=1, description="Input channels, in the order of the model's input.")
    labels: list[NonNegativeInt] = Field(
        min_length=2, description="Labels in the masks; class index k is the k-th label."
    )


class SpatialConfig(Section):
    """Patch size and voxel spacing of the model's input; x, y, z in LPS voxel order."""

    patch_size: Annotated[PatchSize, Flag("train")] = Field(description="Patch size in voxels.")
    target_spacing: TargetSpacing = Field(description="Voxel spacing after resampling, in mm.")


class CtNormalization(Section):
    """Intensity window and z-score of CT, in HU; null for other modalities."""

    window_min: float | None = Field(None, description="Lower end of the window.")
    window_max: float | None = Field(None, description="Upper end of the window.")
    z_score_mean: float | None = Field(None, description="Mean for the z-score.")
    z_score_std: NonNegativeFloat | None = Field(None, description="Standard deviation for the z-score.")


class PreprocessingConfig(Section):
    """Cropping, resampling and normalization of the images."""

    skip: Annotated[bool, Flag("preprocess", "no-preprocess")] = Field(
        False, description="Only convert to NumPy: no reorientation, cropping, resampling or normalization."
    )
    crop_to_foreground: bool = Field(False, description="Crop images to their foreground.")
    median_resampled_image_size: tuple[int, int, int] = Field(description="Median size after resampling, in voxels.")
    normalize_with_nonzero_mask: bool = Field(False, description="Normalize over nonzero voxels only.")
    ct_normalization: CtNormalization = CtNormalization()
    compute_dtms: Annotated[bool, Flag("preprocess")] = Field(
        False, description="Compute signed distance maps for boundary losses."
    )
    normalize_dtms: bool = Field(True, description="Scale distance maps to [-1, 1].")
    resampling: Literal["reference", "accurate"] = Field(
        "reference",
        description="accurate: extend borders, average when downsampling, take the nonzero mask before resampling. "
        "reference: resample like MIST 2.3.",
    )
    keep_small_labels: Annotated[bool, Flag("preprocess")] = Field(
        False,
        exclude_if=lambda kept: not kept,
        description="Keep the volume of lesions that are too small for the target spacing, which otherwise vanish from "
        "resampled masks.",
    )


class ModelParams(BaseModel):
    """Parameters of the architecture; it may have others besides the channel counts."""

    model_config = ConfigDict(frozen=True, extra="allow")

    in_channels: PositiveInt = Field(description="Number of input channels.")
    out_channels: PositiveInt = Field(description="Number of classes, including background.")


class ModelConfig(Section):
    """The network."""

    architecture: Annotated[str, Flag("train", "model")] = Field("nnunet", description="Network architecture.")
    params: ModelParams


class LossConfig(Section):
    """The loss function."""

    name: Annotated[str, Flag("train", "loss")] = Field("dice_ce", description="Loss function.")
    composite_loss_weighting: Json | None = Field(
        None,
        description="Schedule that weights the terms of a composite loss: name (constant, linear or cosine) and "
        "params; null for equal weights.",
    )

    @field_validator("composite_loss_weighting")
    @classmethod
    def _known_weighting(cls, entry: Json | None) -> Json | None:
        try:
            return None if entry is None else completed(entry)
        except ConfigError as error:
            raise ValueError(error.message) from error


class AugmentationConfig(Section):
    """Data augmentation."""

    enabled: bool = Field(True, description="Augment training patches.")
    transforms: dict[str, bool] = Field(
        default_factory=lambda: dict.fromkeys(("flips", "zoom", "noise", "blur", "brightness", "contrast"), True),
        description="Augmentations to switch on or off; rotation, gamma and low_resolution are off by default.",
    )
    flip_axes: list[Axis] = Field(
        ["x", "y", "z"], description="Axes of random flips; omit x if labels distinguish left and right."
    )


class HardwareConfig(Section):
    """Preferences about the hardware; what is available is detected at run time."""

    num_gpus: NonNegativeInt | None = Field(None, description="Number of GPUs; null for all visible ones.")
    num_cpu_workers: NonNegativeInt = Field(
        8, description="Worker processes that load patches; at most one per CPU core."
    )
    master_addr: str = Field("localhost", description="Ignored; accepted for compatibility with MIST.")
    master_port: PositiveInt = Field(12345, description="Ignored; accepted for compatibility with MIST.")
    communication_backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="Backend of torch.distributed.")
    data_loader: Literal["auto", "generic", "dali"] = Field(
        "auto", description="Always generic; the others are accepted for compatibility with MIST."
    )
    compile: bool | None = Field(
        None,
        description="Compile training and prediction with torch.compile; if that fails, log the reason and run "
        "uncompiled. null compiles training on a GPU, if it is long enough to make up for the minute that it takes.",
    )
    cache: Annotated[Literal["auto", "device", "ram", "none"], Flag("train")] = Field(
        "auto",
        exclude_if=lambda where: where == "auto",
        description="Where training keeps the arrays of a fold: in the memory of the GPU (device), in main memory "
        "(ram) or only on disk (none). With a GPU, auto is the first of these that they fit in; on a CPU, none.",
    )
    memory_format: Literal["auto", "channels_first", "channels_last"] = Field(
        "auto",
        exclude_if=lambda order: order == "auto",
        description="Order of the axes in memory while training. auto is channels_last for networks that "
        "are faster with it on a CPU with AMX.",
    )


class TrainingConfig(Section):
    """Training of a fold."""

    seed: NonNegativeInt = Field(42, description="Random seed.")
    nfolds: Annotated[int, Field(ge=2), Flag("analyze")] = Field(5, description="Number of cross-validation folds.")
    folds: list[NonNegativeInt] = Field([0, 1, 2, 3, 4], min_length=1, description="Folds to train.")
    val_percent: Annotated[Percentage, Flag("train")] = Field(
        0.0,
        description="Share of the training cases to validate on: 0.2 or 20 for 20 %. 0 validates on the held-out fold.",
    )
    epochs: Annotated[PositiveInt, Flag("train")] = Field(1000, description="Number of epochs per fold.")
    min_steps_per_epoch: PositiveInt = Field(250, description="Minimum number of steps per epoch.")
    batch_size_per_gpu: Annotated[PositiveInt, Flag("train")] = Field(2, description="Batch size per device.")
    dali_foreground_prob: Probability | None = Field(
        0.6, description="Probability that a patch is centered on a labeled voxel."
    )
    loss: LossConfig = LossConfig()
    optimizer: Annotated[str, Flag("train")] = Field("adamw", description="Optimizer.")
    learning_rate: Annotated[PositiveFloat, Flag("train")] = Field(0.001, description="Initial learning rate.")
    lr_scheduler: Annotated[str, Flag("train")] = Field("cosine", description="Learning rate schedule.")
    warmup_epochs: Annotated[NonNegativeInt, Flag("train")] = Field(
        20, description="Number of linear warmup epochs; none in runs that are not longer."
    )
    l2_penalty: Annotated[NonNegativeFloat, Flag("train")] = Field(0.0001, description="Weight decay.")
    grad_clip_norm: PositiveFloat = Field(1.0, description="Maximum gradient norm.")
    amp: bool = Field(True, description="Train in BF16 mixed precision where it is faster than FP32.")
    deterministic: Annotated[bool, Flag("train")] = Field(
        False,
        exclude_if=lambda wanted: not wanted,
        description="On a GPU, use only algorithms that give the same bits in every run; they are slower. A CPU has no "
        "others.",
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    hardware: HardwareConfig = HardwareConfig()
    validation_every: Annotated[PositiveInt, Flag("train")] = Field(
        1,
        exclude_if=lambda epochs: epochs == 1,
        description="Validate after the first and every n-th epoch from there, and after the last one.",
    )
    validation_cases: Annotated[PositiveInt | None, Flag("train")] = Field(
        None,
        exclude_if=lambda cases: cases is None,
        description="Validate on at most this many cases of a fold, drawn once; null for all.",
    )
    validation_seed: NonNegativeInt | None = Field(
        None,
        exclude_if=lambda seed: seed is None,
        description="Random seed of the draw of validation cases; null is seed. Replicas have that of the original.",
    )

    @model_validator(mode="after")
    def _check_folds(self) -> TrainingConfig:
        wrong = [fold for fold in self.folds if fold >= self.nfolds]
        if wrong:
            raise ValueError(
                f"fold {wrong[0]} does not exist; nfolds is {self.nfolds}, so folds are 0–{self.nfolds - 1}"
            )
        if len(set(self.folds)) != len(self.folds):
            raise ValueError(f"folds lists a fold twice: {', '.join(map(str, self.folds))}")
        return self

    @property
    def seed_of_validation(self) -> int:
        """Seed of the draw of validation cases."""
        return self.seed if self.validation_seed is None else self.validation_seed

    def steps_per_epoch(self, cases: int, processes: int = 1) -> int:
        """Steps of an epoch: enough to use every case once, and at least ``min_steps_per_epoch``."""
        return max(self.min_steps_per_epoch, math.ceil(cases / (self.batch_size_per_gpu * processes)))

    @property
    def effective_warmup_epochs(self) -> int:
        """Warmup epochs; 0 if they would fill the whole run.

        In runs of 10 epochs on hippocampus, one epoch of warmup did not help (``bench/README.md``).
        """
        return self.warmup_epochs if self.warmup_epochs < self.epochs else 0


class InfererParams(Section):
    """Sliding-window inference."""

    patch_blend_mode: Literal["gaussian", "constant"] = Field(
        "gaussian", description="Blending of overlapping windows."
    )
    patch_overlap: Fraction = Field(0.5, description="Overlap of neighboring windows, as a fraction.")
    sw_batch_size: PositiveInt | None = Field(
        None,
        exclude_if=lambda size: size is None,
        description="Windows per forward pass; null for twice the training batch size on a GPU, 1 on a CPU.",
    )


class InfererConfig(Section):
    """Prediction of a whole volume."""

    name: Literal["sliding_window"] = Field("sliding_window", description="Always sliding_window.")
    params: InfererParams = InfererParams()


class EnsembleConfig(Section):
    """Combination of the folds' models."""

    strategy: Literal["mean"] = Field("mean", description="Mean of the probabilities.")


class TtaConfig(Section):
    """Test-time augmentation."""

    enabled: bool = Field(True, description="Average predictions over flipped copies of the image.")
    strategy: Literal["all_flips", "none"] = Field("all_flips", description="Flips to average over.")
    flip_axes: list[Axis] = Field(
        ["x", "y", "z"], description="Axes to flip; omit x if labels distinguish left and right."
    )


class InferenceConfig(Section):
    """Inference."""

    inferer: InfererConfig = InfererConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    tta: TtaConfig = TtaConfig()


class EvaluationClass(Section):
    """A class to evaluate: the union of some labels, and its metrics."""

    labels: list[Annotated[int, Field(gt=0, strict=True)]] = Field(
        min_length=1, description="Labels that make up the class."
    )
    metrics: dict[str, Json] = Field(description="Metrics by name, each with its parameters.")


class StudyConfig(Section):
    """All of config.json."""

    mist_version: str = Field(description="Version of MIST or mist-dagster that wrote the file.")
    dataset_info: DatasetInfo
    spatial_config: SpatialConfig
    preprocessing: PreprocessingConfig
    model: ModelConfig
    training: TrainingConfig
    inference: InferenceConfig = InferenceConfig()
    evaluation: dict[str, EvaluationClass]

    def values(self, paths: Iterable[str]) -> Json:
        """The values at dotted paths, by path."""
        whole = self.model_dump(mode="json")
        found = {}
        for path in paths:
            # Newer settings are absent while they have their defaults, so that digests of older versions stay valid.
            with suppress(KeyError):
                found[path] = _lookup(whole, path)
        return found


class ReplicaSeeds(Section):
    """What a replica has otherwise than the original: the content of ``replica`` in its config.json."""

    seed: NonNegativeInt
    validation_seed: NonNegativeInt | None = None


class _ReplicaConfig(Section):
    """config.json of a replica."""

    replica: ReplicaSeeds


STEPS = ("preprocessing", "training", "prediction", "test_prediction", "evaluation")
"""The steps of a study that have settings; see ``mist_ops.steps`` for these."""

STEP_VERSIONS: dict[str, int] = dict.fromkeys(STEPS, 1)
"""Version of each step's computation, raised when the same inputs and settings give different results."""


def read_config(path: Path) -> StudyConfig:
    """Read a config.json; an error lists every mistake in it.

    That of a replica holds only its seeds; all other settings are those of the original.
    """
    base = settings_file(path)
    if base != path:
        seeds = read_checked(path, _ReplicaConfig, ConfigError).replica
        return override(read_config(base), {f"training.{name}": seed for name, seed in seeds.model_dump().items()})
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist. Run mist_analyze first, or pass its folder with --results.",
            code="config-missing",
            file=path,
        )
    try:
        return read_checked(path, StudyConfig, ConfigError)
    except ConfigError as error:
        writer = _later_version(path)
        if not writer:
            raise
        raise ConfigError(
            f"{error.message} The file was written by a later version, {writer}; use that one.", **error.facts
        ) from error


def settings_file(path: Path) -> Path:
    """The file that holds the settings of a config.json: for that of a replica, the one of the original."""
    study = Study("", path.parent, path.parent)
    return study.original.config if study.original and study.config == path and path.is_file() else path


def write_replica(path: Path, seeds: ReplicaSeeds) -> None:
    """Write the config.json of a replica, atomically."""
    write_json(path, {"replica": seeds.model_dump(mode="json")})


def _later_version(path: Path) -> str | None:
    """Return the version that wrote a config.json if it is later than the one supported here."""
    try:
        written = str(read_object(path)["mist_version"])
        now = version(_PROGRAM) if written.startswith(_PROGRAM) else _MIST_VERSION
    except (OSError, ValueError, KeyError, PackageNotFoundError):
        return None
    return written if _numbers(written) > _numbers(now) else None


_PROGRAM, _MIST_VERSION = "mist-dagster", "2.3.0"
"""Name of this program in ``mist_version``, and the latest supported version of MIST."""


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", text)]


def write_config(path: Path, config: StudyConfig) -> None:
    """Write a config.json in MIST's layout, atomically.

    Raises:
        ConfigError: It is that of a replica.
    """
    base = settings_file(path)
    if base != path:
        raise ConfigError(
            f"{path.parent} is a replica: its settings are those of {base}. Change them there, or give --results "
            f"{base.parent}.",
            code="replica-settings",
            file=path,
            expected=base,
        )
    write_json(path, config.model_dump(mode="json"))


def override(config: StudyConfig, values: Mapping[str, Any]) -> StudyConfig:
    """Return a validated copy with values replaced at dotted paths, such as ``{"training.epochs": 10}``."""
    whole = config.model_dump(mode="json")
    for path, value in values.items():
        *parents, name = path.split(".")
        section = _lookup(whole, ".".join(parents)) if parents else whole
        section[name] = value
    try:
        changed = StudyConfig.model_validate(whole)
    except ValidationError as error:
        raise refusal(ConfigError, error, StudyConfig) from error
    if changed.training.warmup_epochs >= changed.training.epochs and "training.warmup_epochs" in values:
        raise ConfigError(
            f"warmup_epochs is {changed.training.warmup_epochs}, but epochs is {changed.training.epochs}. "
            "Lower --warmup-epochs or raise --epochs.",
            code="warmup-too-long",
            field="training.warmup_epochs",
            found=changed.training.warmup_epochs,
        )
    return changed


NAMES: Mapping[str, Registry[Any]] = {
    "model.architecture": MODELS,
    "training.loss.name": LOSSES,
    "training.optimizer": OPTIMIZERS,
    "training.lr_scheduler": SCHEDULERS,
}
"""Settings that name a registered entry, by dotted path, with their registries."""


def check_names(config: StudyConfig, changed: Collection[str] | None = None) -> None:
    """Check names against the registries, and the patch size against the network.

    Args:
        config: The configuration.
        changed: Settings that are new, by dotted path; all by default. Losses, optimizers and augmentations load torch.

    Raises:
        ConfigError: A name is unknown, the network does not support the patch size, or the loss lacks distance maps.
    """
    training = config.training
    architecture = MODELS[config.model.architecture]
    architecture.check_patch_size(config.spatial_config.patch_size, config.spatial_config.target_spacing)
    paths = (*NAMES, "training.augmentation.transforms", "preprocessing.compute_dtms")
    new = frozenset(paths if changed is None else changed)
    for path in NAMES.keys() & new:
        NAMES[path][attrgetter(path)(config)]
    for name in training.augmentation.transforms if "training.augmentation.transforms" in new else ():
        AUGMENTATIONS[name]
    if not new & {"training.loss.name", "preprocessing.compute_dtms"} or config.preprocessing.compute_dtms:
        return
    if "dtm" in LOSSES[training.loss.name].needs:
        raise ConfigError(
            f"The loss '{training.loss.name}' needs distance maps, but preprocessing.compute_dtms is false. "
            "Preprocess with --compute-dtms first, or choose another loss.",
            code="distance-maps-missing",
            field="training.loss.name",
            found=training.loss.name,
        )


def check_channels(config: StudyConfig) -> None:
    """Check that the network has a channel for each image and each label.

    Raises:
        ConfigError: It has more or fewer.
    """
    params, dataset = config.model.params, config.dataset_info
    for name, found, thing in (("in", params.in_channels, "image"), ("out", params.out_channels, "label")):
        expected = len(getattr(dataset, f"{thing}s"))
        if found != expected:
            field = f"model.params.{name}_channels"
            raise ConfigError(
                f"{field} is {found}, but dataset_info lists {counted(expected, thing)}. Set it to {expected}.",
                code="channels-mismatch",
                field=field,
                found=found,
                expected=expected,
            )


def edits(before: StudyConfig, after: StudyConfig) -> dict[str, Any]:
    """The dotted paths at which two configurations differ, with the values of ``after``, as ``override`` takes them."""
    old = leaves(before.model_dump(mode="json"))
    return {
        path: value for path, value in leaves(after.model_dump(mode="json")).items() if old.get(path, _MISSING) != value
    }


_MISSING = object()


def leaves(values: Json) -> dict[str, Any]:
    """The settings of a configuration by dotted path."""
    return dict(_leaves(values))


def _leaves(value: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in value.items():
        path = f"{prefix}{name}"
        # Dictionaries with arbitrary keys (classes, metrics, augmentations) are compared as a whole.
        if isinstance(child, dict) and path not in ("evaluation", "training.augmentation.transforms", "model.params"):
            yield from _leaves(child, f"{path}.")
        else:
            yield path, child


_WHOLE = {"ModelParams"}
"""Sections that count as one setting: they may have keys of their own."""


def leaf_paths(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """The settings of a section by dotted path."""
    found: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__ not in _WHOLE:
            found |= leaf_paths(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = info
    return found


def _lookup(whole: Json, path: str) -> Any:
    value: Any = whole
    for name in path.split("."):
        value = value[name]
    return value
