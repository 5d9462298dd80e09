"""A change of any setting makes stale exactly the results that it changes: bytes compared with what records say.

Fields are those of the schema, so that a new one enters by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from training.small_study import TINY

from mist_ops.analysis.analyze import analyze
from mist_ops.boxes import read_boxes
from mist_ops.config import StudyConfig, leaf_paths, override, read_config, write_config
from mist_ops.dataset import Case, Fold, read_paths, read_train_paths
from mist_ops.evaluation.table import Pair, evaluate
from mist_ops.files import file_hash
from mist_ops.inference.case import Predictor, predict_case
from mist_ops.inference.models import load_models
from mist_ops.inference.study import predict_held_out, predict_tests
from mist_ops.phantoms import write_phantoms
from mist_ops.preprocessing.case import write_case
from mist_ops.records.arrays import ARRAYS, changed_arrays, read_record
from mist_ops.records.comparison import verify
from mist_ops.records.passport import read_passport
from mist_ops.records.prediction import stale_predictions, stale_test_predictions
from mist_ops.registry import MODELS
from mist_ops.steps import changed_settings, settings, view
from mist_ops.study import Study
from mist_ops.training.fold import train_fold

CPU = torch.device("cpu")
IDS = ("phantom_001", "phantom_002", "phantom_003")

BASE: dict[str, Any] = {
    "spatial_config.patch_size": [8, 8, 8],
    "model.architecture": "tiny",
    "training.nfolds": 3,
    "training.folds": [0],
    "training.epochs": 3,
    "training.min_steps_per_epoch": 1,
    "training.warmup_epochs": 1,
    "training.learning_rate": 0.01,
    "training.hardware.num_cpu_workers": 0,
    "preprocessing.crop_to_foreground": True,
    "evaluation": {"lesion": {"labels": [1, 2], "metrics": {"dice": {}}}},
}

OTHER: dict[str, Any] = {
    "dataset_info.images": ["t2", "t1"],
    "dataset_info.labels": [0, 2, 1],
    "dataset_info.modality": "other",
    "spatial_config.patch_size": [8, 8, 12],
    "spatial_config.target_spacing": [1.0, 1.0, 1.4],
    "model.architecture": "tiny-2",
    "model.params": {"in_channels": 2, "out_channels": 3, "dropout": 0.5},
    "training.folds": [0, 1],
    "training.nfolds": 4,
    "training.epochs": 4,
    "training.warmup_epochs": 2,
    "training.loss.name": "dice",
    "training.loss.composite_loss_weighting": {"name": "constant", "params": {}},
    "training.optimizer": "adam",
    "training.lr_scheduler": "constant",
    "training.augmentation.transforms": {"flips": True},
    "training.grad_clip_norm": 0.001,
    "training.l2_penalty": 0.5,
    "training.validation_every": 2,
    "evaluation": {"lesion": {"labels": [1], "metrics": {"dice": {}}}},
}
"""Second values where the type of the field does not give a meaningful one."""

ONE_VALUE = {
    "inference.inferer.name": "sliding_window is the only value",
    "inference.ensemble.strategy": "mean is the only value",
}

UNCHANGED = {
    ("preprocessing", "preprocessing.normalize_with_nonzero_mask"): "no voxel of the crop is zero",
    ("preprocessing", "preprocessing.keep_small_labels"): "no lesion loses more than half of its volume",
    ("test_prediction", "preprocessing.normalize_with_nonzero_mask"): "no voxel of the crop is zero",
    ("training", "training.amp"): "BF16 is used only if the processor supports it",
    ("training", "spatial_config.target_spacing"): "the network ``tiny`` is the same for all spacings",
    ("training", "training.augmentation.flip_axes"): "no patch may be flipped along this axis",
    ("prediction", "training.amp"): "BF16 is used only if the processor supports it",
    ("test_prediction", "training.amp"): "BF16 is used only if the processor supports it",
}
"""Settings that a step reads, but that may not change its result here."""

ROUNDING = {
    "training.hardware.compile": "compiled kernels round differently, as other devices do",
    "training.hardware.memory_format": "so do kernels for channels last, and dropout is drawn in another order",
}
"""Settings of the machine: a model trained on another one is not stale."""

FIELDS = leaf_paths(StudyConfig)


def second(path: str, config: StudyConfig) -> Any:
    """Another valid value of a field."""
    if path in OTHER:
        return OTHER[path]
    value, kind = _get(config, path), FIELDS[path].annotation
    parts = (kind,) if get_origin(kind) is list else (kind, *get_args(kind))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool) or (value is None and bool in get_args(kind)):
        return not value
    if isinstance(value, float) or (value is None and float in get_args(kind)):
        return 0.25 if value is None else value / 2 + 0.1
    if isinstance(value, int) or value is None:
        return (value or 1) + 1
    if isinstance(value, str):
        return f"{value}-2"
    if isinstance(value, tuple):
        return [axis + 1 for axis in value]
    assert isinstance(value, list), f"give OTHER a second value of {path}"
    return value[:-1]


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, StudyConfig]]:
    """A small study with arrays, a model and predictions."""
    MODELS._load().update({"tiny": TINY, "tiny-2": replace(TINY, build=partial(TINY.build, dropout=0.6))})
    folder = tmp_path_factory.mktemp("base")
    data = write_phantoms(folder / "data", patients=3, tests=1, size=(20, 18, 16))
    study = Study("base", numpy=folder / "numpy", results=folder / "results", data=data)
    list(analyze(study, overrides={"training.nfolds": 3, "training.folds": [0]}))
    config = override(read_config(study.config), BASE)
    write_config(study.config, config)
    for case_id in IDS:
        make_arrays(study, config, case_id)
    make_weights(study, config)
    list(predict_held_out(study, IDS[:1], CPU))
    list(predict_tests(study, [case.id for case in cases_to_test(study)], CPU))
    yield study, config
    del MODELS._load()["tiny"], MODELS._load()["tiny-2"]


def cases_to_test(study: Study) -> list[Case]:
    return read_paths(study.test_paths, read_config(study.config).dataset_info.images)


def make_arrays(study: Study, config: StudyConfig, case_id: str) -> None:
    write_case(study, read_train_paths(study.train_paths)[case_id], config, read_boxes(study)[case_id])


def make_weights(study: Study, config: StudyConfig) -> None:
    list(train_fold(study, config, Fold(0, IDS[1:2], IDS[2:], IDS[:1]), device="cpu", workers=0))


def array_hashes(study: Study) -> dict[str, str]:
    return read_record(study, IDS[0]).arrays


SAMPLE = (
    "preprocessing.median_resampled_image_size",
    "preprocessing.ct_normalization.window_min",
    "preprocessing.normalize_dtms",
    "preprocessing.compute_dtms",
    "inference.inferer.params.patch_overlap",
    "inference.inferer.params.patch_blend_mode",
    "training.nfolds",
    "training.seed",
    "spatial_config.target_spacing",
)
"""Fields of the issue, and one that changes every step; the others are slow tests."""


@pytest.mark.parametrize(
    "path", [path if path in SAMPLE else pytest.param(path, marks=pytest.mark.slow) for path in FIELDS]
)
def test_exactly_what_a_setting_changes_is_stale(base: tuple[Study, StudyConfig], path: str, tmp_path: Path) -> None:
    study, config = base
    if path in ONE_VALUE or path in ROUNDING:
        pytest.skip({**ONE_VALUE, **ROUNDING}[path])
    changed = override(config, {path: second(path, config)})
    assert _get(changed, path) != _get(config, path)
    other = Study("other", numpy=tmp_path / "numpy", results=tmp_path / "results", data=study.data)
    arrays_agree(study, config, changed, path, other)
    weights_agree(study, changed, path, other)
    predictions_agree(study, changed, path, other)
    scores_agree(study, changed, path)


def agree(step: str, path: str, stale: bool, differs: bool) -> None:
    assert stale or not differs, f"{path} changes {step}, which is not called stale"
    assert differs or not stale or (step, path) in UNCHANGED, f"{path} does not change {step}, which is called stale"


def arrays_agree(study: Study, config: StudyConfig, changed: StudyConfig, path: str, other: Study) -> None:
    case, box = read_train_paths(study.train_paths)[IDS[0]], read_boxes(study)[IDS[0]]
    change = changed_arrays(study, changed, [case]).get(case.id)
    write_case(other, case, changed, box)
    before, after = array_hashes(study), array_hashes(other)
    for name in ARRAYS:
        if name not in before and name not in after:
            continue  # no distance maps
        differs = before.get(name) != after.get(name)
        agree("preprocessing", path, change is not None and name in change.arrays, differs)


def weights_agree(study: Study, changed: StudyConfig, path: str, other: Study) -> None:
    reasons = verify(study.model(0), study, config=changed)
    again = Study("again", numpy=study.numpy, results=other.results)
    if _get(changed, "model.params").in_channels != 2:
        return
    make_weights(again, changed)
    agree("training", path, bool(reasons), trained(again) != trained(study))


def trained(study: Study) -> object:
    """The weights, and the losses of all epochs, as the weights may be those of an early one."""
    history = read_passport(study.model(0)).history
    losses = [(epoch.training_loss, epoch.validation_loss, epoch.learning_rate) for epoch in history]
    return file_hash(study.model(0)), losses


def test_the_lists_of_this_test_name_fields_that_exist() -> None:
    assert {*OTHER, *ONE_VALUE, *ROUNDING, *SAMPLE, *(path for _, path in UNCHANGED)} <= FIELDS.keys()


def predictions_agree(study: Study, changed: StudyConfig, path: str, other: Study) -> None:
    """Predict from the same arrays and images with the same weights; compare probabilities, finer than labels."""
    models, case = load_models(study, read_config(study.config)), cases_to_test(study)[0]
    known = {0: file_hash(study.model(0))}
    held_out = stale_predictions(study, changed, read_train_paths(study.train_paths), known)
    folder = study.results / "probabilities"
    for step, raw in (("prediction", False), ("test_prediction", True)):
        member = case if raw else read_train_paths(study.train_paths)[IDS[0]]
        before, after = folder / f"{step}.nii.gz", other.results / f"{step}.nii.gz"
        stale = bool(stale_test_predictions(study, changed, [case], known)) if raw else member.id in held_out
        for config, output in ((read_config(study.config), before), (changed, after)):
            if output.is_file():
                continue
            predictor = Predictor(models, view(config, step), CPU)
            vectors = output.with_name(f"vectors_{output.name}")
            predict_case(predictor, member, output, None if raw else study, probabilities=vectors)
        agree(
            step,
            path,
            stale,
            any(
                file_hash(one) != file_hash(two)
                for one, two in (
                    (before, after),
                    (before.with_name(f"vectors_{before.name}"), after.with_name(f"vectors_{after.name}")),
                )
            ),
        )


def scores_agree(study: Study, changed: StudyConfig, path: str) -> None:
    """Score the same prediction, and compare the scores and the task that the plot and the pages name."""
    now, before = (
        (next(evaluate([pair(study)], config.evaluation, 1)).result, config.dataset_info.task)
        for config in (view(changed, "evaluation"), view(read_config(study.config), "evaluation"))
    )
    recorded = settings(read_config(study.config), "evaluation")
    agree("evaluation", path, bool(changed_settings(recorded, changed, "evaluation")), now != before)


def pair(study: Study) -> Pair:
    mask = read_train_paths(study.train_paths)[IDS[0]].mask
    assert mask is not None
    return Pair(IDS[0], mask, mask)
