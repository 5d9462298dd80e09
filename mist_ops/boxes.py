"""fg_bboxes.csv: the foreground of each image, in voxels of its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mist_ops.study import Study
from mist_ops.tables import read_table, whole_numbers, write_rows
from mist_ops.types import Box, Size

_EDGES = ("x_start", "x_end", "y_start", "y_end", "z_start", "z_end")
_SIZES = ("x_og_size", "y_og_size", "z_og_size")


def write_boxes(study: Study, boxes: Mapping[str, Box], sizes: Mapping[str, Size]) -> None:
    """Write fg_bboxes.csv: the first and the last voxel of each foreground, and the size of its image, both native."""
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
    """Read the foreground boxes of fg_bboxes.csv by id."""
    table = read_table(study.fg_bboxes, required=("id", *_EDGES))
    return {row["id"]: _box([row[name] for name in _EDGES], study.fg_bboxes) for row in table.to_dict("records")}


def read_sizes(study: Study) -> dict[str, Size]:
    """Read the sizes, by id, of the images that the boxes of fg_bboxes.csv were found in; none if it tells none."""
    table = read_table(study.fg_bboxes, required=("id",))
    if not set(_SIZES) <= set(table.columns):
        return {}
    return {row["id"]: _size([row[name] for name in _SIZES], study.fg_bboxes) for row in table.to_dict("records")}


def _edges(box: Box) -> list[int]:
    # In the table, as MIST has it, the end is the last voxel inside.
    return [edge for start, stop in zip(box.start, box.stop, strict=True) for edge in (start, stop - 1)]


def _box(edges: Sequence[str], path: Path) -> Box:
    x_start, x_end, y_start, y_end, z_start, z_end = whole_numbers(edges, f"{path}: the columns of edges")
    return Box((x_start, y_start, z_start), (x_end + 1, y_end + 1, z_end + 1))


def _size(voxels: Sequence[str], path: Path) -> Size:
    x, y, z = whole_numbers(voxels, f"{path}: the columns of sizes")
    return x, y, z
