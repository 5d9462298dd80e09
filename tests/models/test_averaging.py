"""The mean of files of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mist_ops.errors import ConfigError
from mist_ops.models.averaging import average_weights
from mist_ops.models.weights import write_tensors


def written(path: Path, **tensors: Tensor) -> Path:
    write_tensors(path, tensors)
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    index = torch.tensor([3, 1])
    one = written(tmp_path / "one.pt", conv=torch.tensor([[1.0, 3.0]]), index=index)
    return [one, written(tmp_path / "two.pt", conv=torch.tensor([[2.0, 5.0]]), index=index)]


def test_the_mean_is_taken_by_element_and_whole_numbers_stay(two: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "mean.pt"
    average_weights(two, output)
    mean = torch.load(output, weights_only=True)
    assert mean["conv"].tolist() == [[1.5, 4.0]]
    assert mean["conv"].dtype == torch.float32
    assert mean["index"].tolist() == [3, 1]
    assert mean["index"].dtype == torch.int64


def test_three_files_weigh_the_same(two: list[Path], tmp_path: Path) -> None:
    third = written(tmp_path / "three.pt", conv=torch.tensor([[6.0, 1.0]]), index=torch.tensor([3, 1]))
    average_weights([*two, third], tmp_path / "mean.pt")
    assert torch.load(tmp_path / "mean.pt", weights_only=True)["conv"].tolist() == [[3.0, 3.0]]


def test_a_file_that_is_there_is_kept_unless_asked(two: list[Path], tmp_path: Path) -> None:
    output = written(tmp_path / "mean.pt", conv=torch.tensor([[9.0, 9.0]]))
    with pytest.raises(ConfigError, match="exists already"):
        average_weights(two, output)
    assert torch.load(output, weights_only=True)["conv"].tolist() == [[9.0, 9.0]]
    average_weights(two, output, overwrite=True)
    assert torch.load(output, weights_only=True)["conv"].tolist() == [[1.5, 4.0]]


def test_a_file_that_is_averaged_is_never_written_over(two: list[Path]) -> None:
    with pytest.raises(ConfigError, match="is one of the files themselves"):
        average_weights(two, two[0], overwrite=True)


def test_one_file_is_no_average(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two files of weights or more, found 1"):
        average_weights(two[:1], tmp_path / "mean.pt")


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({"conv": torch.ones(1, 3), "index": torch.tensor([3, 1])}, "'conv' has the shape"),
        ({"conv": torch.ones(1, 2)}, "'index' is in"),
        ({"conv": torch.ones(1, 2), "index": torch.tensor([3, 1]), "more": torch.ones(1)}, "'more' is in"),
        ({"conv": torch.tensor([[1.0, torch.nan]]), "index": torch.tensor([3, 1])}, "'conv' holds values that are not"),
        ({"conv": torch.ones(1, 2), "index": torch.tensor([3, 2])}, "whole numbers 'index' differ"),
        ({"conv": torch.ones(1, 2), "epoch": 3}, "something else than the weights"),
    ],
)
def test_files_that_do_not_go_together_are_refused_and_nothing_is_written(
    two: list[Path], tmp_path: Path, tensors: dict[str, Tensor], words: str
) -> None:
    bad = written(tmp_path / "bad.pt", **tensors)
    with pytest.raises(ConfigError, match=words):
        average_weights([two[0], bad], tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()


def test_a_missing_file_is_named(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pt"):
        average_weights([*two, tmp_path / "none.pt"], tmp_path / "mean.pt")
