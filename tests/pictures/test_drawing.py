"""Outlines, and drawing with Pillow."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mist_ops.pictures.case import outlines
from mist_ops.pictures.drawing import Canvas


def pixels(canvas: Canvas) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(canvas.png()))).astype(int)


def test_outlines_pass_between_the_pixels_inside_and_outside() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:3, 2:5] = True
    mask[4, 0] = True  # at the border of the image
    small, large = sorted(outlines(mask), key=len)
    assert (large.min(axis=0).tolist(), large.max(axis=0).tolist()) == ([1.5, 0.5], [4.5, 2.5])
    assert (small.min(axis=0).tolist(), small.max(axis=0).tolist()) == ([-0.5, 3.5], [0.5, 4.5])
    assert large[0].tolist() == large[-1].tolist()


def test_a_dashed_line_leaves_gaps_of_the_given_length() -> None:
    canvas = Canvas(100, 10, "black")
    canvas.line(np.array([[0.0, 5.0], [50.0, 5.0], [100.0, 5.0]]), "white", 2.0, (6.0, 4.0))
    drawn = pixels(canvas)[5, :, 0] > 128
    assert 0.55 <= drawn.mean() <= 0.7
    assert np.count_nonzero(np.diff(drawn.astype(int)) == 1) in (9, 10)


def test_gray_values_fill_their_rectangle() -> None:
    canvas = Canvas(30, 20, "#101010")
    canvas.gray((5, 4), (20, 10), np.full((3, 4), 200, dtype=np.uint8))
    shown = pixels(canvas)
    assert (shown[4:14, 5:25] == 200).all()
    assert (np.delete(shown, np.s_[4:14], axis=0) == 16).all()


def test_the_same_drawing_gives_the_same_bytes() -> None:
    drawn = []
    for _ in range(2):
        canvas = Canvas(60, 30, "black")
        canvas.text((5, 15), "Dice 0.9", "white", 12, "lm", bold=True, edge="red")
        drawn.append(canvas.png())
    assert drawn[0] == drawn[1]
    assert canvas.length("wide", 12) > canvas.length("w", 12) > 0
