"""Checks of the files of a case, and of images and groups that several folds share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mist_ops.analysis.ranges import IntensityRange, measure_range
from mist_ops.dataset import Assignment, Case, DatasetDescription
from mist_ops.errors import CaseError, ImageError, MistError, few, listing
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.labels import check_labels, count_voxels
from mist_ops.imaging.nifti import read_geometry, read_image, read_labels
from mist_ops.types import Image, LabelMap

Gate = Literal["readable", "one_grid", "known_labels"]
GATES: tuple[Gate, ...] = get_args(Gate)
"""Checks of a case: complete files with finite voxels, one grid for all of them, and a mask of listed labels."""


@dataclass(frozen=True)
class Problem:
    """A reason why a case cannot be used, and the check that it fails."""

    gate: Gate
    error: MistError


class UnusableCase(CaseError):
    """A case that cannot be used; the message lists all problems, code and facts are those of the first."""

    def __init__(self, case_id: str, problems: Sequence[Problem]) -> None:
        messages = [problem.error.message for problem in problems]
        super().__init__(case_id, listing(messages), **problems[0].error.facts)
        self.problems = list(problems)


@dataclass(frozen=True)
class Contents:
    """Contents of a case.

    Attributes:
        image: First channel.
        mask: Its mask.
        labels: Number of voxels by label.
        grid: Grid of the mask.
        ranges: Intensities of the channels that were read.
    """

    image: Image
    mask: LabelMap
    labels: Mapping[int, int]
    grid: Geometry
    ranges: Mapping[str, IntensityRange]


def verify(case: Case, description: DatasetDescription) -> list[Problem]:
    """List every reason why a training case cannot be used.

    Problems are files that are missing, corrupted, not three-dimensional or not finite, different grids, labels that
    are fractional or not listed, a mask that contains only background, and a channel that has only one value.
    """
    try:
        read(case, description, thorough=True)
    except UnusableCase as error:
        return error.problems
    return []


def read(case: Case, description: DatasetDescription, thorough: bool) -> Contents:
    """Read the first channel and the mask of a case, after checking its headers.

    Args:
        case: A training case.
        description: With the labels that masks may hold.
        thorough: Also read the other channels, and refuse empty masks and constant channels.

    Raises:
        UnusableCase: The headers or, if these are valid, the voxels have problems; all are listed.
    """
    if case.mask is None:
        missing = ImageError("it has no mask, which training requires.", code="mask-missing")
        raise UnusableCase(case.id, [Problem("readable", missing)])
    problems = list(_header_problems(case))
    if problems:
        raise UnusableCase(case.id, problems)
    (channel, first), *others = case.images.items()
    ranges: dict[str, IntensityRange] = {}
    with _collect(problems, "known_labels"):
        mask, grid = read_labels(case.mask)
        labels = count_voxels(mask)
        check_labels(labels, description.labels)
        if thorough and not any(labels):
            raise ImageError("the mask contains only background.", code="mask-empty", file=case.mask)
    with _collect(problems, "readable"):
        image, _ = read_image(first)
        ranges[channel] = measure_range(image)
        if thorough:
            _check_varies(image, first)
    for name, path in others if thorough else []:
        with _collect(problems, "readable"):
            other, _ = read_image(path)
            ranges[name] = measure_range(other)
            _check_varies(other, path)
    if problems:
        raise UnusableCase(case.id, problems)
    return Contents(image, mask, labels, grid, ranges)


def repeated_images(contents: Mapping[str, str]) -> list[str]:
    """Describe each group of cases whose first channels are equal in every voxel.

    Args:
        contents: Hash of the voxels by case id.
    """
    return [
        f"The cases {few(same)} have the same image. In different folds, a model would be tested on an image that it "
        "was trained on. Keep one of them."
        for same in _same(contents)
    ]


def leaks(contents: Mapping[str, str], fold_of: Mapping[str, int]) -> list[str]:
    """Describe each image that a fold both trains on and holds out, under different ids.

    Args:
        contents: Hash of the voxels by case id.
        fold_of: Fold that holds out each case.
    """
    return [
        f"The cases {', '.join(f'{case_id} (fold {fold_of[case_id]})' for case_id in same)} have the same image, so a "
        "model would be tested on an image that it was trained on. Keep one of them, or put them into one fold in "
        "train_paths.csv."
        for same in _same({case_id: content for case_id, content in contents.items() if case_id in fold_of})
        if len({fold_of[case_id] for case_id in same}) > 1
    ]


def divided_groups(assignment: Assignment) -> list[str]:
    """Describe each group whose cases are held out in different folds."""
    members = defaultdict(set)
    for case_id, group in assignment.group_of.items():
        members[group].add(assignment.fold_of[case_id])
    return [
        f"The cases of group '{group}' are in folds {few(sorted(folds))}, so a model would be tested on a group it was "
        "trained on. Put them into one fold in train_paths.csv, or run the analysis again."
        for group, folds in sorted(members.items())
        if len(folds) > 1
    ]


def _same(contents: Mapping[str, str]) -> list[list[str]]:
    """Group ids by content; only groups of several."""
    groups = defaultdict(list)
    for case_id, content in contents.items():
        groups[content].append(case_id)
    return [same for same in groups.values() if len(same) > 1]


@contextmanager
def _collect(problems: list[Problem], gate: Gate) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        problems.append(Problem(gate, error))


def _header_problems(case: Case) -> list[Problem]:
    problems: list[Problem] = []
    grids: dict[str, Geometry] = {}
    files = {"the mask": case.mask, **case.images} if case.mask else case.images
    for name, path in files.items():
        with _collect(problems, "readable"):
            grids[name] = read_geometry(path)
    reference, *others = grids or [""]
    for name in others:
        with _collect(problems, "one_grid"):
            check_same_grid(reference, grids[reference], name, grids[name], files[name])
    return problems


def check_same_grid(reference: str, expected: Geometry, name: str, found: Geometry, file: Path) -> None:
    """Check that two images of a case have the same grid.

    Raises:
        ImageError: They do not.
    """
    differences = expected.differences(found) if found != expected else []
    if differences:
        raise ImageError(
            f"{reference} and {name} have different grids: {', '.join(differences)}. Resample one of them.",
            code="grid-mismatch",
            file=file,
            found=differences,
        )


def _check_varies(image: Image, path: Path) -> None:
    value = image.flat[0]
    if (image == value).all():
        raise ImageError(
            f"{path} has the value {value:g} in every voxel.", code="image-constant", file=path, found=float(value)
        )
