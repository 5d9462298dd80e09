"""Mean of weights files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from expect import refuses
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


def test_the_mean_is_element_wise_and_integer_buffers_are_copied(two: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "mean.pt"
    average_weights(two, output)
    mean = torch.load(output, weights_only=True)
    assert mean["conv"].tolist() == [[1.5, 4.0]]
    assert mean["conv"].dtype == torch.float32
    assert mean["index"].tolist() == [3, 1]
    assert mean["index"].dtype == torch.int64


def test_three_files_have_equal_weight(two: list[Path], tmp_path: Path) -> None:
    third = written(tmp_path / "three.pt", conv=torch.tensor([[6.0, 1.0]]), index=torch.tensor([3, 1]))
    average_weights([*two, third], tmp_path / "mean.pt")
    assert torch.load(tmp_path / "mean.pt", weights_only=True)["conv"].tolist() == [[3.0, 3.0]]


def test_an_existing_output_is_replaced_only_on_request(two: list[Path], tmp_path: Path) -> None:
    output = written(tmp_path / "mean.pt", conv=torch.tensor([[9.0, 9.0]]))
    with refuses("output-exists", ConfigError, file=output, field="--output"):
        average_weights(two, output)
    assert torch.load(output, weights_only=True)["conv"].tolist() == [[9.0, 9.0]]
    average_weights(two, output, overwrite=True)
    assert torch.load(output, weights_only=True)["conv"].tolist() == [[1.5, 4.0]]


def test_an_input_is_never_overwritten(two: list[Path]) -> None:
    with refuses("output-is-input", ConfigError, file=two[0]):
        average_weights(two, two[0], overwrite=True)


def test_a_single_file_is_refused(two: list[Path], tmp_path: Path) -> None:
    with refuses("too-few-inputs", ConfigError, found=1, expected=2):
        average_weights(two[:1], tmp_path / "mean.pt")


@pytest.mark.parametrize(
    "tensors, code, names",
    [
        ({"conv": torch.ones(1, 3), "index": torch.tensor([3, 1])}, "weights-mismatch", ["conv"]),
        ({"conv": torch.ones(1, 2)}, "weights-mismatch", ["index"]),
        ({"conv": torch.ones(1, 2), "index": torch.tensor([3, 1]), "new": torch.ones(1)}, "weights-mismatch", ["new"]),
        ({"conv": torch.tensor([[1.0, torch.nan]]), "index": torch.tensor([3, 1])}, "weights-not-finite", ["conv"]),
        ({"conv": torch.ones(1, 2), "index": torch.tensor([3, 2])}, "weights-mismatch", ["index"]),
        ({"conv": torch.ones(1, 2), "epoch": 3}, "weights-invalid", None),
    ],
)
def test_files_that_cannot_be_averaged_are_refused_and_nothing_is_written(
    two: list[Path], tmp_path: Path, tensors: dict[str, Tensor], code: str, names: list[str] | None
) -> None:
    bad = written(tmp_path / "bad.pt", **tensors)
    with refuses(code, ConfigError, file=bad, found=names):
        average_weights([two[0], bad], tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()


def test_a_missing_file_is_refused(two: list[Path], tmp_path: Path) -> None:
    with refuses("weights-missing", ConfigError, file=tmp_path / "none.pt"):
        average_weights([*two, tmp_path / "none.pt"], tmp_path / "mean.pt")
