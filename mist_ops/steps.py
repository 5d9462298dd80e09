"""What each step reads of config.json: declared once, enforced by ``view``, and compared with what records hold.

A record holds the settings that its artifact depends on, by dotted path. A setting that a step reads only under a
condition, such as the CT window of a study of CT, belongs to it only then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from mist_ops.config import PreprocessingConfig, StudyConfig, TrainingConfig, leaf_paths
from mist_ops.files import json_hash
from mist_ops.registry import LOSSES
from mist_ops.types import Json

Settings = Mapping[str, Any]
"""Values by dotted path."""

_SectionT = TypeVar("_SectionT", bound=BaseModel)


def _preprocessing(config: StudyConfig) -> Iterator[str]:
    """Of ``preprocessing.case.preprocess`` for a case with a mask."""
    yield "dataset_info.labels"
    yield "preprocessing.compute_dtms"
    yield from ("preprocessing.normalize_dtms",) if config.preprocessing.compute_dtms else ()
    # Without resampling, its rules still decide the unit of distance maps.
    if config.preprocessing.skip and config.preprocessing.compute_dtms:
        yield "preprocessing.resampling"
    yield from () if config.preprocessing.skip else ("preprocessing.keep_small_labels",)
    yield from _images(config)


def _images(config: StudyConfig) -> Iterator[str]:
    """Of ``preprocessing.case.preprocess`` for a case without a mask."""
    yield "dataset_info.images"
    yield "preprocessing.skip"
    if config.preprocessing.skip:
        return
    yield "dataset_info.modality"
    yield "spatial_config.target_spacing"
    for path in leaf_paths(PreprocessingConfig, "preprocessing."):
        if path in _OF_MASKS or path == "preprocessing.median_resampled_image_size":
            continue
        if not path.startswith("preprocessing.ct_normalization.") or config.dataset_info.modality == "ct":
            yield path


_OF_MASKS = ("preprocessing.compute_dtms", "preprocessing.normalize_dtms", "preprocessing.keep_small_labels")


def _training(config: StudyConfig) -> Iterator[str]:
    """Of ``training.fold.train_fold``. Which cases train and validate is recorded with the cases."""
    training = config.training
    yield from ("spatial_config.patch_size", "spatial_config.target_spacing", "model.architecture", "model.params")
    for path in leaf_paths(TrainingConfig, "training."):
        if path in _OF_FOLDS or path in FREE["training"]:
            continue
        if path.startswith(("training.hardware.", "training.augmentation.flip_axes")):
            continue
        if path == "training.augmentation.transforms" and not training.augmentation.enabled:
            continue
        if path != "training.loss.composite_loss_weighting" or _weighted(config):
            yield path
    if training.augmentation.enabled and training.augmentation.transforms.get("flips"):
        yield "training.augmentation.flip_axes"


_OF_FOLDS = (
    *("training.nfolds", "training.folds", "training.val_percent"),
    *("training.validation_cases", "training.validation_seed"),
)
"""Settings that decide only which cases a fold has, which passports list."""


def _weighted(config: StudyConfig) -> bool:
    """Whether the loss is blended by a schedule; the losses are looked up only where there is one, as torch loads."""
    loss = config.training.loss
    return loss.composite_loss_weighting is None or LOSSES[loss.name].blended_with is not None


def _prediction(config: StudyConfig) -> Iterator[str]:
    """Of ``inference.case.predict_preprocessed``, for given models."""
    yield from ("dataset_info.labels", "spatial_config.patch_size", "training.amp", "inference.ensemble.strategy")
    yield from ("inference.inferer.name", "inference.inferer.params.patch_blend_mode")
    yield "inference.inferer.params.patch_overlap"
    yield "inference.tta.enabled"
    if config.inference.tta.enabled:
        yield "inference.tta.strategy"
        if config.inference.tta.strategy != "none":
            yield "inference.tta.flip_axes"


def _test_prediction(config: StudyConfig) -> Iterator[str]:
    """Of ``inference.case.predict_raw``, for given models."""
    yield from _prediction(config)
    yield from _images(config)


def _evaluation(config: StudyConfig) -> Iterator[str]:
    """Of ``evaluation.study.StudyEvaluation``: the scores, and the plot and the pages, which name the task."""
    yield from ("dataset_info.task", "evaluation")


READS: Mapping[str, Callable[[StudyConfig], Iterator[str]]] = {
    "preprocessing": _preprocessing,
    "training": _training,
    "prediction": _prediction,
    "test_prediction": _test_prediction,
    "evaluation": _evaluation,
}
"""The settings that the result of each step depends on."""

_WINDOWS = ("inference.inferer.params.sw_batch_size", "training.batch_size_per_gpu", "model.params")
"""How many windows run together, by default as many as fit on the device; channels, which are those of the weights."""

FREE: Mapping[str, Sequence[str]] = {
    "preprocessing": (),
    "training": ("training.hardware", "training.deterministic"),
    "prediction": (*_WINDOWS, "training.hardware.compile"),
    "test_prediction": (*_WINDOWS, "training.hardware.compile"),
    "evaluation": ("training.folds",),
}
"""Settings that a step reads although its result does not depend on them: they decide how fast it runs, or which
records compare by content."""

_SAME: Mapping[str, Callable[[Any], Any]] = {
    "dataset_info.modality": lambda modality: modality == "ct",
    "training.augmentation.transforms": lambda transforms: [name for name, on in transforms.items() if on],
}
"""What of a value matters, where different values have the same effect."""


def settings(config: StudyConfig, step: str) -> dict[str, Any]:
    """The settings that the result of a step depends on; newer ones are absent while they have their defaults."""
    found = {path: attrgetter(path)(config) for path in READS[step](config)}
    return {path: to_jsonable_python(value) for path, value in found.items() if not _unset(path, value)}


def image_settings(config: StudyConfig) -> dict[str, Any]:
    """Settings that must be the same in training and prediction: those of images, and the labels."""
    paths = ("dataset_info.labels", *_images(config))
    return {path: to_jsonable_python(attrgetter(path)(config)) for path in paths}


def digest(config: StudyConfig, step: str) -> str:
    """Hash of these settings, the same for values that have the same effect."""
    return json_hash({path: _effect(path, value) for path, value in settings(config, step).items()})


def view(config: StudyConfig, step: str) -> StudyConfig:
    """A configuration with only the settings that a step declares: reading another is an ``AttributeError``."""
    return _only(config, {*READS[step](config), *FREE[step]})


def _only(section: _SectionT, paths: Collection[str], prefix: str = "") -> _SectionT:
    kept = {}
    for name in type(section).model_fields:
        if not hasattr(section, name):  # of a view
            continue
        path, value = f"{prefix}{name}", getattr(section, name)
        if path in paths:
            kept[name] = value
        elif any(other.startswith(f"{path}.") for other in paths):
            kept[name] = _only(value, paths, f"{path}.")
    restricted = section.model_copy()
    restricted.__dict__.clear()
    restricted.__dict__.update(kept)
    return restricted


def changed_settings(before: Settings | str, config: StudyConfig, step: str) -> dict[str, str]:
    """Settings that changed since a record was written, each with a message such as ``epochs was 5 and is 6``.

    Args:
        before: The recorded settings; of records of version 0.9 and earlier, the digest of more of them.
        config: The settings now.
        step: The step.
    """
    if isinstance(before, str):
        noun = step.replace("test_", "")
        changed = before != old_digest(config, step)
        return {"": f"the {noun} settings changed; earlier values are not on record"} if changed else {}
    return changes(before, settings(config, step))


def changes(before: Settings, now: Settings) -> dict[str, str]:
    """Messages on the settings that differ, by dotted path.

    A setting that only one side depends on is skipped: the one that decides this differs as well.
    """
    found: dict[str, str] = {}
    if before == now:
        return found
    for path in dict.fromkeys([*before, *now]):
        if (path not in before or path not in now) and path not in newer_settings():
            continue
        old, new = (values.get(path, newer_settings().get(path)) for values in (before, now))
        if _effect(path, old) != _effect(path, new):
            found[path] = "; ".join(worded(path, old, new))
    return found


def worded(path: str, before: Any, now: Any) -> Iterator[str]:
    """Name a setting with both values; of a dictionary, each key that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) != now.get(key):
                yield from worded(f"{path}.{key}", before.get(key), now.get(key))
    else:
        old, new = formatted(before), formatted(now)
        same = old == new  # to six digits
        yield f"{short_name(path)} was {before if same else old} and is {now if same else new}"


def formatted(value: Any) -> str:
    """Format a value without brackets and quotes, numbers to six digits."""
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(formatted, value)) or "empty"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def short_name(path: str) -> str:
    """The end of a dotted path that no other setting has: ``target_spacing``, ``tta.enabled``."""
    parts = path.split(".")
    if path not in _leaves():
        return path
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in _leaves()) == 1:
            return end
    return path


def old_digest(config: StudyConfig, step: str) -> str:
    """The digest by which earlier versions recorded the settings of a step."""
    return json_hash(config.values(_OLD[step]))


def _effect(path: str, value: Any) -> Any:
    return _SAME[path](value) if path in _SAME and value is not None else value


def _unset(path: str, value: Any) -> bool:
    return path in newer_settings() and value == newer_settings()[path]


@cache
def _leaves() -> tuple[str, ...]:
    return tuple(leaf_paths(StudyConfig))


@cache
def newer_settings() -> Json:
    """The settings that are absent while they have their defaults, with these."""
    return {path: info.default for path, info in leaf_paths(StudyConfig).items() if info.exclude_if is not None}


_OLD_GRID = ("dataset_info.images", "dataset_info.labels", "spatial_config.target_spacing")
_OLD_MODEL = ("spatial_config.patch_size", "model")
_OLD: Mapping[str, Sequence[str]] = {
    "preprocessing": ("dataset_info.modality", *_OLD_GRID, "preprocessing"),
    "training": (
        *_OLD_GRID,
        *_OLD_MODEL,
        *(f"training.{name}" for name in TrainingConfig.model_fields if name not in ("folds", "hardware")),
        "inference.inferer",
    ),
    "prediction": (*_OLD_GRID, *_OLD_MODEL, "preprocessing", "inference"),
    "test_prediction": (*_OLD_GRID, *_OLD_MODEL, "preprocessing", "inference"),
    "evaluation": ("evaluation",),
}
"""The settings in digests of earlier versions."""
