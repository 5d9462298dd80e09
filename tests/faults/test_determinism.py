"""The whole pipeline twice, with different numbers of workers: all files are the same, except for times and paths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY

from mist_ops.config import override, read_config, write_config

from .harness import Sandbox

MEASURED = ("seconds", "waiting", "validating", "stamps", "hardware", "peak_memory")
"""Keys with times and properties of the machine."""


def pipeline(sandbox: Sandbox, workers: int) -> Mapping[Path, Any]:
    """Run all stages, and return the content of all files written."""
    study, count = sandbox.study, str(workers)
    analyzing = ["--data", study.data, "--nfolds", "2", "--data-dump", "--num-workers-analyze", count]
    assert sandbox.run("analyze", *analyzing).status == 0
    config = override(read_config(study.config), {**TINY, "training.epochs": 2})
    write_config(study.config, config)
    assert sandbox.run("preprocess", "--num-workers-preprocess", count, "--compute-dtms").status == 0
    assert sandbox.run("train", "--num-workers-evaluate", count, "--device", "cpu").status == 0
    assert sandbox.run("choose_postprocessing", "--num-workers-postprocess", count).status == 0
    steps = sandbox.folder / "steps.json"
    steps.write_text(
        json.dumps([{"transform": "remove_small_objects", "apply_to_labels": [-1], "per_label": True, "kwargs": {}}])
    )
    raw, cleaned = study.cv_predictions, study.results / "cleaned"
    shared = ["--base-predictions", raw, "--output", cleaned, "--postprocess-strategy", steps]
    assert sandbox.run("postprocess", *shared, "--num-workers-postprocess", count).status == 0
    folders = ["--predictions", raw, cleaned / "predictions", "--output", study.results / "both"]
    assert sandbox.run("ensemble", *folders, "--num-workers-ensemble", count).status == 0
    made = [path for folder in (study.results, study.numpy) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: content(path) for path in made if not {"logs", ".locks"} & set(path.parts)}


def content(path: Path) -> Any:
    """The content of a file without measurements: parsed or as bytes."""
    if path.suffix == ".json":
        return without_measures(json.loads(path.read_text()))
    if path.parent.name == "checkpoints":
        return str(without_measures(torch.load(path, weights_only=True)))
    if path.parent.name == "voxels":
        return np.load(path)[7:].tobytes()  # without the time of the labels
    if path.suffix == ".html":
        return path.read_text().count("<")
    return path.read_bytes()


def without_measures(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_measures(child) for name, child in value.items() if name not in MEASURED}
    return [without_measures(child) for child in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_the_files_of_the_pipeline_do_not_depend_on_the_number_of_workers(described: Sandbox) -> None:
    first = pipeline(described, workers=1)
    for folder in (described.study.results, described.study.numpy):
        shutil.rmtree(folder)
    second = pipeline(described, workers=2)
    assert [path for path in first if first[path] != second.get(path)] == []
    assert second.keys() == first.keys()
    kinds = {path.suffix for path in first}
    assert kinds >= {".pt", ".npy", ".gz", ".csv", ".json", ".md", ".png"}
