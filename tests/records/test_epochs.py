"""Epochs of a training in a file that other programs read while it grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mist_ops.records.epochs import append_epoch, read_epochs, write_epochs
from mist_ops.records.passport import Epoch


def epoch(index: int) -> Epoch:
    validation = None if index % 2 else 0.5 / (index + 1)
    return Epoch(index, 0.25, validation, 0.001, validation is not None, 12.5, 0.125, None, 0.25)


def test_epochs_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    assert read_epochs(path) == ()
    write_epochs(path, [epoch(0), epoch(1)])
    append_epoch(path, epoch(2))
    assert read_epochs(path) == (epoch(0), epoch(1), epoch(2))
    write_epochs(path, [epoch(0)])
    assert read_epochs(path) == (epoch(0),)


@pytest.mark.parametrize("rest", ['{"index": 1, "trai', "null\n", "\xff\xfe\n", '{"index": "first"}\n'])
def test_a_line_that_is_not_whole_ends_the_epochs(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "epochs.jsonl"
    write_epochs(path, [epoch(0)])
    with path.open("a", encoding="latin-1") as stream:
        stream.write(rest)
    assert read_epochs(path) == (epoch(0),)
