"""Whether the files of a case can be used: what a person should know before hours are spent on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mist_ops.dataset import Assignment, Case, DatasetDescription
from mist_ops.errors import CaseError, ImageError, listing
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_geometry, read_image, read_labels
from mist_ops.types import Image, LabelMap

GATES = ("readable", "one_grid", "known_labels")
"""What is asked of a case: whole files with finite voxels, all on one grid, and a mask of listed labels."""


class Problem(str):
    """A reason why a case cannot be used, as a sentence; ``gate`` is the one of ``GATES`` that it fails."""

    gate: str

    def __new__(cls, sentence: str, gate: str) -> Problem:
        """A sentence with its gate."""
        problem = super().__new__(cls, sentence)
        problem.gate = gate
        return problem

    def __reduce__(self) -> tuple[type[Problem], tuple[str, str]]:
        """For pickling, on the way back from a worker process."""
        return Problem, (str(self), self.gate)


class UnusableCase(CaseError):
    """A case with all the reasons why it cannot be used."""

    def __init__(self, case_id: str, problems: Sequence[Problem]) -> None:
        super().__init__(case_id, listing(problems))
        # Pickling, on the way back from a worker process, calls the class again with these.
        self.args = (case_id, problems)
        self.problems = list(problems)


@dataclass(frozen=True)
class Contents:
    """What is read of a case: its first channel, its mask with the voxels of each label, and the mask's grid."""

    image: Image
    mask: LabelMap
    labels: Mapping[int, int]
    grid: Geometry


def verify(case: Case, description: DatasetDescription) -> list[Problem]:
    """Every reason why a training case cannot be used; none if it can.

    That is: a file that is missing, damaged, not three-dimensional or not finite; grids that differ; labels that are
    fractional or not listed; a mask of background alone; a channel with one value throughout.
    """
    try:
        read(case, description, thorough=True)
    except UnusableCase as error:
        return error.problems
    return []


def read(case: Case, description: DatasetDescription, thorough: bool) -> Contents:
    """Read a case once, after its headers have shown that all its files share one grid.

    The channels after the first are read, an empty mask and a constant channel refused, only if ``thorough``.

    Raises:
        UnusableCase: Something is wrong with the headers, or else with the voxels; all of it is named.
    """
    problems = list(_header_problems(case))
    if case.mask is None or problems:
        without = Problem("it has no mask, which a training case needs.", "readable")
        raise UnusableCase(case.id, problems or [without])
    first, *others = case.images.values()
    with _noting(problems, "known_labels"):
        mask, grid = read_labels(case.mask)
        labels = _label_counts(mask)
        problems += _label_problems(labels, description.labels, thorough)
    with _noting(problems, "readable"):
        image, _ = read_image(first)
        problems += _constant(image, first.name) if thorough else []
    for path in others if thorough else []:
        with _noting(problems, "readable"):
            problems += _constant(read_image(path)[0], path.name)
    if problems:
        raise UnusableCase(case.id, problems)
    return Contents(image, mask, labels, grid)


def repeated_images(contents: Mapping[str, str]) -> list[str]:
    """A sentence for every group of cases whose first channels are the same, voxel by voxel.

    Args:
        contents: The hash of the voxels of each case, by id.
    """
    return [
        f"The cases {', '.join(same)} have the same image. In different folds one would be tested "
        "on what it was trained on; keep one of them."
        for same in _same(contents)
    ]


def leaks(contents: Mapping[str, str], fold_of: Mapping[str, int]) -> list[str]:
    """A sentence for every image that trains a fold under one id and is held out by it under another.

    Args:
        contents: The hash of the voxels of each case, by id.
        fold_of: The fold that holds out each case.
    """
    return [
        f"The cases {', '.join(f'{case_id} (fold {fold_of[case_id]})' for case_id in same)} have the same image, so "
        "folds would be tested on what they were trained on. Keep one of them, or give them the same fold in "
        "train_paths.csv."
        for same in _same({case_id: content for case_id, content in contents.items() if case_id in fold_of})
        if len({fold_of[case_id] for case_id in same}) > 1
    ]


def divided_groups(assignment: Assignment) -> list[str]:
    """A sentence for every group whose cases are held out in different folds."""
    members = defaultdict(set)
    for case_id, group in assignment.group_of.items():
        members[group].add(assignment.fold_of[case_id])
    return [
        f"The cases of group '{group}' are in folds {sorted(folds)}, so folds would be tested on a group that they "
        "were trained on. Give them the same fold in train_paths.csv, or analyze again."
        for group, folds in sorted(members.items())
        if len(folds) > 1
    ]


def _same(contents: Mapping[str, str]) -> list[list[str]]:
    """The ids that share a content, where there are several."""
    groups = defaultdict(list)
    for case_id, content in contents.items():
        groups[content].append(case_id)
    return [same for same in groups.values() if len(same) > 1]


@contextmanager
def _noting(problems: list[Problem], gate: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        problems.append(Problem(str(error), gate))


def _header_problems(case: Case) -> list[Problem]:
    problems: list[Problem] = []
    grids: dict[str, Geometry] = {}
    files = {"the mask": case.mask, **case.images} if case.mask else case.images
    for name, path in files.items():
        with _noting(problems, "readable"):
            grids[name] = read_geometry(path)
    reference = next(iter(grids), "")
    for name in list(grids)[1:]:
        differences = grids[reference].differences(grids[name])
        if differences:
            found = "; ".join(differences)
            sentence = f"{reference} and {name} differ: {found}. Resample one of them or remove the case."
            problems.append(Problem(sentence, "one_grid"))
    return problems


def _label_counts(mask: LabelMap) -> dict[int, int]:
    counts = np.bincount(mask.ravel())
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def _label_problems(found: Mapping[int, int], listed: Sequence[int], thorough: bool) -> list[Problem]:
    unknown = sorted(set(found) - set(listed))
    if unknown:
        sentence = f"the mask holds labels {unknown}, but 'labels' lists {sorted(listed)}. Correct one of them."
        return [Problem(sentence, "known_labels")]
    return [Problem("the mask holds background alone.", "known_labels")] if thorough and not any(found) else []


def _constant(image: Image, name: str) -> list[Problem]:
    value = image.flat[0]
    return [Problem(f"{name} holds {value:g} in every voxel.", "readable")] if (image == value).all() else []
