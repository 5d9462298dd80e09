"""Drawing with Pillow: importing matplotlib and drawing with it takes ten times as long for pictures of patients."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Corner = tuple[float | int, float | int]
"""Pixels from the left and from the top."""

Points = Float[np.ndarray, "point 2"]

FINE = 2
"""Everything is drawn in this many pixels for one and then reduced, which smooths edges."""


def font_of(size: int, *, bold: bool = False) -> FreeTypeFont:
    """The font of the other figures, which comes with matplotlib and has more letters than Pillow's; size in pixels."""
    from PIL import ImageFont

    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / name, size)


class Canvas:
    """A picture to draw on; all positions and sizes are in pixels of the result.

    Attributes:
        width: Columns of the result.
        height: Rows of the result.
    """

    def __init__(self, width: int, height: int, background: str) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self._image = Image.new("RGB", (FINE * width, FINE * height), background)
        self._draw = ImageDraw.Draw(self._image)

    def gray(self, corner: Corner, size: tuple[int, int], pixels: UInt8[np.ndarray, "row column"]) -> None:
        """Draw gray values into a rectangle, interpolated."""
        from PIL import Image

        width, height = size
        scaled = Image.fromarray(pixels).resize((FINE * width, FINE * height), Image.Resampling.BICUBIC)
        self._image.paste(scaled, (round(FINE * corner[0]), round(FINE * corner[1])))

    def line(self, points: Points, color: str, width: float, dashes: tuple[float, float] | None = None) -> None:
        """Draw a line through points; ``dashes`` are the lengths of dashes and gaps."""
        for part in [points] if dashes is None else _dashed(points, *dashes):
            self._draw.line((FINE * part).ravel().tolist(), color, round(FINE * width), joint="curve")

    def box(self, corner: Corner, opposite: Corner, color: str, width: float) -> None:
        """Draw the edge of a rectangle between two of its corners."""
        (left, top), (right, bottom) = corner, opposite
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], dtype=np.float64)
        self.line(points, color, width)

    def dots(self, centers: Points, color: str, radius: float, opacity: float) -> None:
        """Draw discs of one color through which others can be seen."""
        from PIL import ImageColor, ImageDraw

        draw = ImageDraw.Draw(self._image, "RGBA")
        fill = (*ImageColor.getrgb(color)[:3], round(255 * opacity))
        for center in (FINE * centers).tolist():
            draw.circle(center, FINE * radius, fill)

    def text(
        self, at: Corner, text: str, color: str, size: int, anchor: str, *, bold: bool = False, edge: str | None = None
    ) -> None:
        """Draw text, with an edge in another color; anchors are those of Pillow, such as "lm" for left and middle."""
        place, letters = (FINE * at[0], FINE * at[1]), font_of(FINE * size, bold=bold)
        self._draw.text(place, text, color, letters, anchor, stroke_width=FINE * bool(edge), stroke_fill=edge)

    def vertical_text(self, at: Corner, text: str, color: str, size: int) -> None:
        """Draw text that reads upwards and ends at a point."""
        from PIL import Image, ImageDraw

        letters = font_of(FINE * size)
        across, up = round(letters.getlength(text)) or 1, round(1.4 * FINE * size)
        mask = Image.new("L", (across, up))
        ImageDraw.Draw(mask).text((across, up / 2), text, 255, letters, "rm")
        turned = mask.rotate(90, expand=True)
        self._image.paste(color, (round(FINE * at[0] - up / 2), round(FINE * at[1])), turned)

    def length(self, text: str, size: int) -> float:
        """Width of a text."""
        return font_of(FINE * size).getlength(text) / FINE

    def png(self) -> bytes:
        """The picture as a PNG; the same drawing gives the same bytes."""
        buffer = io.BytesIO()
        # Higher levels take up to five times as long for files that are 5 % smaller.
        self._image.reduce(FINE).save(buffer, "PNG", compress_level=2)
        return buffer.getvalue()


def _dashed(points: Points, drawn: float, omitted: float) -> Iterator[Points]:
    """Parts of a line along its length."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
    for start in np.arange(0.0, along[-1], drawn + omitted):
        stop = min(start + drawn, along[-1])
        at = np.concatenate([[start], along[(along > start) & (along < stop)], [stop]])
        yield np.stack([np.interp(at, along, axis) for axis in points.T], axis=1)
