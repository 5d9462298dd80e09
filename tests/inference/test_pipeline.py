from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from expect import refuses
from inference.test_case import GRID, Threshold, config
from torch import nn

from mist_ops.dataset import Case
from mist_ops.errors import CaseError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels, write_image
from mist_ops.imaging.vectors import read_values
from mist_ops.inference.case import Predictor, predict_case
from mist_ops.inference.memory import Reservation, no_limit, reading_bytes, writing_bytes
from mist_ops.inference.pipeline import Job, predict_cases

SECONDS = 20
CASES = "abc"


class Watched(nn.Module):
    """The thresholds of ``Threshold``; ``before`` is called with the number of the case, from 0."""

    def __init__(self, before: Callable[[int], object]) -> None:
        super().__init__()
        self.before, self.calls = before, 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.before(self.calls)
        self.calls += 1
        logits: torch.Tensor = Threshold()(windows)
        return logits


class Ledger:
    """Grants memory beside another reservation or not, and records what is reserved at a time."""

    def __init__(self, beside: bool) -> None:
        self.beside, self.now, self.most = beside, 0, 0

    @contextmanager
    def __call__(self, needed: int, *, wait: bool = True) -> Iterator[bool]:
        granted = wait or self.beside
        self.now += needed * granted
        self.most = max(self.most, self.now)
        try:
            yield granted
        finally:
            self.now -= needed * granted


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    for number, name in enumerate(CASES):
        for channel in ("t1", "t2"):
            image = np.zeros(GRID.size, dtype=np.float32)
            image[3 + number : 9 + number, 4:8, 5:9] = 50 if channel == "t1" else 0
            write_image(tmp_path / f"{name}_{channel}.nii.gz", image, GRID)
    return [job(tmp_path, name) for name in CASES]


def job(folder: Path, name: str) -> Job:
    images = {channel: folder / f"{name}_{channel}.nii.gz" for channel in ("t1", "t2")}
    return Job(Case(name, images), folder / "masks" / f"{name}.nii.gz")


def predictor(network: nn.Module | None = None, reserve: Reservation = no_limit) -> Predictor:
    return Predictor([network or Threshold()], config(), torch.device("cpu"), reserve)


@pytest.mark.parametrize("beside", [True, False])
def test_masks_are_those_of_single_predictions_whether_memory_allows_overlap_or_not(
    jobs: list[Job], tmp_path: Path, beside: bool
) -> None:
    ledger, alone = Ledger(beside), Ledger(False)
    for each in jobs:
        predict_case(predictor(reserve=alone), each.case, tmp_path / "alone" / each.output.name)
    found = list(predict_cases(predictor(reserve=ledger), jobs))
    assert [(outcome.item.id, outcome.error) for outcome in found] == [(name, None) for name in CASES]
    for each in jobs:
        assert each.output.read_bytes() == (tmp_path / "alone" / each.output.name).read_bytes()
    extra = reading_bytes(jobs[0].case, None, config()) + 2 * writing_bytes(GRID)
    assert alone.most + beside <= ledger.most <= alone.most + beside * extra
    assert ledger.now == 0


def test_a_case_is_read_and_another_written_while_the_networks_work(jobs: list[Job]) -> None:
    read = [threading.Event() for _ in jobs]
    written = threading.Event()

    @contextmanager
    def around(number: int) -> Iterator[None]:
        read[number].set()
        yield
        written.set()

    def before(number: int) -> None:
        if number + 1 < len(jobs):
            assert read[number + 1].wait(SECONDS)
        assert not number or written.wait(SECONDS)

    watched = [Job(each.case, each.output, around=around(number)) for number, each in enumerate(jobs)]
    assert [outcome.error for outcome in predict_cases(predictor(Watched(before)), watched)] == [None] * 3


def test_a_case_that_cannot_be_read_or_written_does_not_stop_the_others(jobs: list[Job]) -> None:
    jobs[1].case.images["t1"].unlink()
    jobs[2].output.mkdir(parents=True)
    first, second, third, fourth = predict_cases(predictor(), [*jobs, job(jobs[0].output.parent.parent, "a")])
    assert (first.error, fourth.error) == (None, None)
    assert isinstance(third.error, OSError)
    with refuses("image-missing", CaseError, case="b"):
        assert second.error is not None
        raise second.error
    assert sorted(path.name for path in jobs[0].output.parent.iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_an_interrupt_keeps_what_is_written_and_leaves_no_partial_file(jobs: list[Job]) -> None:
    def before(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    ledger = Ledger(True)
    outcomes = predict_cases(predictor(Watched(before), ledger), jobs)
    assert next(outcomes).item.id == "a"
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    assert [path.name for path in jobs[0].output.parent.iterdir()] == ["a.nii.gz"]
    assert ledger.now == 0


def test_leaving_early_predicts_no_other_case(jobs: list[Job]) -> None:
    network = Watched(lambda number: None)
    outcomes = predict_cases(predictor(network), jobs)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert network.calls < len(jobs)


def test_probabilities_are_visited_before_they_are_written_and_a_mask_need_not_be(
    jobs: list[Job], tmp_path: Path
) -> None:
    """With the images resampled, so that probabilities are interpolated onto the grid of the files."""
    wide = Predictor([Threshold()], config(**{"spatial_config.target_spacing": [1.5, 1.5, 1.5]}), torch.device("cpu"))
    written, seen = tmp_path / "probabilities.nii.gz", []

    def visit(probabilities: np.ndarray, labels: np.ndarray, grid: Geometry) -> None:
        seen.append((np.array(probabilities), np.array(labels), grid))
        probabilities[:] = 0.25

    [outcome] = predict_cases(wide, [replace(jobs[0], output=None, probabilities=written, visit=visit)])

    assert outcome.error is None
    predict_case(wide, jobs[0].case, tmp_path / "mask.nii.gz", probabilities=tmp_path / "unseen.nii.gz")
    [(probabilities, labels, grid)] = seen
    np.testing.assert_array_equal(probabilities, np.stack(list(read_values(tmp_path / "unseen.nii.gz"))))
    np.testing.assert_array_equal(labels, read_labels(tmp_path / "mask.nii.gz")[0])
    assert grid == GRID
    assert {float(volume.min()) for volume in read_values(written)} == {0.25}
    assert not jobs[0].output.exists()


def test_a_visit_that_fails_is_the_failure_of_its_case_alone(jobs: list[Job]) -> None:
    def refuse(probabilities: np.ndarray, labels: np.ndarray, grid: Geometry) -> None:
        raise CaseError("a", "its mask is on another grid. Correct it.", code="grid-mismatch")

    first, *others = jobs
    outcomes = list(predict_cases(predictor(), [replace(first, visit=refuse), *others]))

    assert [outcome.error is None for outcome in outcomes] == [False, True, True]
    assert not first.output.exists()
