from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from mist_ops.pictures import learning_curves
from mist_ops.records.passport import Epoch


def history(epochs: int) -> list[Epoch]:
    values = [1.0 / (index + 1) for index in range(epochs)]
    return [Epoch(index, value, value, value, True, 1.0, 0.0) for index, value in enumerate(values)]


@pytest.mark.parametrize("epochs", [0, 1, 30])
def test_curves_of_any_number_of_epochs_are_drawn(tmp_path: Path, epochs: int) -> None:
    small = learning_curves(tmp_path / "curves.png", {0: history(epochs), 3: history(epochs)})
    with Image.open(tmp_path / "curves.png") as drawn:
        assert drawn.size == (960, 600)
    assert len(small) <= 30_000
    with Image.open(io.BytesIO(small)) as drawn:
        assert drawn.size == (640, 400)
