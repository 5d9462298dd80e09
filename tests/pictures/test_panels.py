from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mist_ops.pictures.panels import Panel, Points, _ticks, draw_panels


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_points_and_bars_are_drawn_in_their_places(tmp_path: Path) -> None:
    panel = Panel("Volumes", "across", "up", 0.0, 2.0, [Points("seen", "#FF0000", [(1.0, 1.5)], [(0.5, 1.9)])])

    thumbnail = draw_panels(tmp_path / "panels.png", [panel])

    image = pixels(tmp_path / "panels.png").astype(int)
    red = (image[..., 0] > 200) & (image[..., 1:].max(axis=-1) < 60)
    rows, columns = np.nonzero(red[: image.shape[0] - 30])  # without the legend
    # The square is 300 pixels, 64 from the left and 58 from the top.
    assert np.median(columns) == pytest.approx(64 + 150, abs=2)
    assert rows.min() == pytest.approx(58 + 300 * 0.05, abs=2)
    assert rows.max() == pytest.approx(58 + 300 * 0.75, abs=2)
    assert len(thumbnail) <= 30_000
    assert Image.open(io.BytesIO(thumbnail)).format == "PNG"


def test_panels_are_in_rows_of_three(tmp_path: Path) -> None:
    panel = Panel("A", "across", "up", 0.0, 1.0, [])
    draw_panels(tmp_path / "one.png", [panel])
    draw_panels(tmp_path / "four.png", [panel] * 4)

    one, four = (pixels(tmp_path / f"{name}.png").shape for name in ("one", "four"))
    assert four[1] == 3 * one[1]
    assert four[0] - 30 == 2 * (one[0] - 30)


def test_a_value_outside_is_drawn_at_the_edge(tmp_path: Path) -> None:
    points = Points("seen", "#FF0000", [(-1.0, 5.0)])
    draw_panels(tmp_path / "panels.png", [Panel("A", "across", "up", 0.0, 1.0, [points])])
    image = pixels(tmp_path / "panels.png").astype(int)
    assert tuple(image[58, 64]) == (255, 0, 0)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.0, 3.2, [0, 1, 2, 3]),
        (0.0, 0.001, [0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert list(_ticks(low, high)) == pytest.approx(expected)
