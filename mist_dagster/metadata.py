"""Metadata values of the UI: paths, tables, pictures. They must be small, as Dagster stores every event twice."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import dagster as dg

Metadata: TypeAlias = dict[str, dg.MetadataValue | float | int | str]

MAX_ROWS = 20


def path(value: Path) -> dg.MetadataValue:
    """A file or folder."""
    return dg.MetadataValue.path(str(value))


def page(address: str) -> dg.MetadataValue:
    """A page of the UI, by its path, so that the link follows the port."""
    return dg.MetadataValue.url(address)


def picture(png: bytes, caption: str = "") -> dg.MetadataValue:
    """A PNG with a caption in Markdown, shown in the UI by 'Show Markdown'."""
    return dg.MetadataValue.md(
        f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})\n\n{caption}".rstrip()
    )


def drawn(file: Path, draw: Callable[[], bytes] | None, name: str = "picture", caption: str = "") -> Metadata:
    """Draw a figure and show its thumbnail; or, without ``draw``, remove the figure of earlier results.

    Args:
        file: The figure.
        draw: Writes it and returns a thumbnail, a PNG.
        name: Key of the thumbnail.
        caption: Text below it.
    """
    if draw is None:
        file.unlink(missing_ok=True)
        return {}
    return {name: picture(draw(), caption), "figure": path(file)}


def table(rows: Sequence[Mapping[str, float | int | str]]) -> dg.MetadataValue:
    """The first ``MAX_ROWS`` rows of a table; the file has all."""
    shown = [{name: _cell(value) for name, value in row.items()} for row in rows[:MAX_ROWS]]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in shown])


def means(values: Mapping[str, float]) -> Metadata:
    """The mean of each column, without those that are NaN."""
    return {f"mean {column}": mean for column, mean in values.items() if not math.isnan(mean)}


def _cell(value: float | int | str) -> float | int | str:
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 4)
    return value
