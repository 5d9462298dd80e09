"""Fixtures for the training tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from training.small_study import TINY, small_study

from mist_ops.registry import MODELS
from mist_ops.study import Study


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the architecture ``tiny`` during a test."""
    monkeypatch.setitem(MODELS._load(), "tiny", TINY)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results are equal bit for bit only with the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four cases of noise with two boxes in each."""
    return small_study(tmp_path)


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """The compiler cannot trace the checks of shapes that tests add to every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
