"""Fixtures of the tests of what follows an analysis."""

from __future__ import annotations

import pytest

from mist_ops.analysis.analyze import analyze
from mist_ops.config import StudyConfig, read_config
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study


@pytest.fixture(scope="session")
def phantom_config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """The configuration of a study of two phantoms, with the channels t1 and t2 and the labels 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("planned")
    study = Study("x", folder, folder / "results", write_phantoms(folder / "data", patients=2, size=(16, 16, 16)))
    list(analyze(study, overrides={"training.nfolds": 2, "training.folds": [0]}))
    return read_config(study.config)
