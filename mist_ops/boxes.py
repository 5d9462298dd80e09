"""Foreground boxes of images in fg_bboxes.csv, in voxel indices of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mist_ops.errors import few
from mist_ops.study import Study
from mist_ops.tables import integers, read_table, write_rows
from mist_ops.types import Box, Size

_EDGES = ("x_start", "x_end", "y_start", "y_end", "z_start", "z_end")
_SIZES = ("x_og_size", "y_og_size", "z_og_size")


def write_boxes(study: Study, boxes: Mapping[str, Box], sizes: Mapping[str, Size]) -> None:
    """Write fg_bboxes.csv: first and last voxel of each foreground, and the size of its image."""
    write_rows(
        [
            {
                **dict(zip(_EDGES, _edges(box), strict=True)),
                **dict(zip(_SIZES, sizes[case_id], strict=True)),
                "id": case_id,
            }
            for case_id, box in boxes.items()
        ],
        study.fg_bboxes,
    )


def read_boxes(study: Study) -> dict[str, Box]:
    """Read foreground boxes by id."""
    table = read_table(study.fg_bboxes, required=("id", *_EDGES))
    return {row["id"]: _box([row[name] for name in _EDGES], study.fg_bboxes) for row in table.rows}


def read_sizes(study: Study) -> dict[str, Size]:
    """Read image sizes by id; empty if fg_bboxes.csv has none."""
    table = read_table(study.fg_bboxes, required=("id",))
    if not set(_SIZES) <= set(table.columns):
        return {}
    return {row["id"]: _size([row[name] for name in _SIZES], study.fg_bboxes) for row in table.rows}


def _edges(box: Box) -> list[int]:
    # In the table, as in MIST, the end is the last voxel inside the box.
    return [edge for start, stop in zip(box.start, box.stop, strict=True) for edge in (start, stop - 1)]


def _box(edges: Sequence[str], path: Path) -> Box:
    x_start, x_end, y_start, y_end, z_start, z_end = integers(edges, path, few(_EDGES, 6))
    return Box((x_start, y_start, z_start), (x_end + 1, y_end + 1, z_end + 1))


def _size(voxels: Sequence[str], path: Path) -> Size:
    x, y, z = integers(voxels, path, few(_SIZES))
    return x, y, z
