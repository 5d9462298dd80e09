"""A finished study with a history; tests change copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mist_ops.evidence.pack import write_pack
from mist_ops.evidence.sources import models_of
from mist_ops.records.history import append
from mist_ops.records.kept import KeptArtifact, write_kept
from mist_ops.records.reviews import Review, write_review
from mist_ops.study import Study


@pytest.fixture
def study(sound: Path, tmp_path: Path) -> Study:
    """A finished study of four patients in two folds and a test patient, whose scores were accepted."""
    folder = tmp_path / "study"
    shutil.copytree(sound, folder, ignore=shutil.ignore_patterns("home_of_the_study", "figures", "checkpoints", "logs"))
    found = Study("s", numpy=folder / "numpy", results=folder / "results", data=folder / "data" / "dataset.json")
    shutil.copy(found.results_csv, found.accepted_csv)
    append(found, "accepted", {"scores": "0" * 64, "models": {}})
    write_review(found.reviews, Review("phantom_002", "poor", f"Mr. Miller, see {found.results}"))
    entry = KeptArtifact(
        step="preprocessing",
        key="phantom_003",
        changes=("the mask of phantom_003 changed",),
        reason=f"phantom_003 is Mr. Miller, copied to {found.numpy}",
        date="2026-01-31",
        content="c",
        inputs="i",
    )
    write_kept(found.kept, [entry])
    append(found, "kept", entry.model_dump(mode="json", exclude={"date", "inputs"}))
    return found


@pytest.fixture
def pack(study: Study, tmp_path: Path) -> Path:
    """The pack of this study."""
    path = tmp_path / "pack.zip"
    write_pack(study, models_of(study.models), path)
    return path
