"""How many planted mistakes the review queue finds, for a study whose masks are right.

python bench/review.py results --folds 2 4 --tests labels

Masks of a few patients are damaged, and the queue is as long as there are damaged ones: then its precision is its
recall. Predictions stay as they are, as if the models had been trained with masks that are right. Choose methods on
some folds, and judge them on others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from damage import DAMAGES, Damage, eroded, shifted

from mist_ops.evaluation.score import BoxedLabels, read_masks
from mist_ops.evaluation.structures import structures_of
from mist_ops.imaging.components import label_boxes
from mist_ops.imaging.geometry import Geometry
from mist_ops.review.measures import Measured, measure_labels
from mist_ops.review.study import open_review
from mist_ops.review.suspicion import suspects
from mist_ops.study import Study

METHODS: Mapping[str, Callable[[Mapping[str, Measured]], list[str]]] = {
    "mean Dice": lambda found: sorted(found, key=lambda name: found[name].agreement),
    "lowest Dice": lambda found: sorted(
        found, key=lambda name: min((one.dice for one in found[name].differences.values()), default=1.0)
    ),
    "review queue": lambda found: [suspect.id for suspect in suspects(found)],
}

STRENGTHS: Mapping[str, Damage] = {
    **{f"eroded {voxels}": eroded(voxels) for voxels in (1, 2)},
    **{f"shifted {voxels}": shifted(voxels) for voxels in (1, 2, 3, 4)},
}

_VARIANTS = 4
"""Random variants of each kind of damage for each patient."""

SHARE = 0.05
"""Of masks that are damaged."""


@dataclass(frozen=True)
class Intact:
    """A patient whose mask is right."""

    truth: np.ndarray
    predicted: BoxedLabels
    geometry: Geometry

    def measured(self, damage: Damage | None, random: np.random.Generator) -> Measured:
        """The patient with a damaged mask."""
        _, orientation = self.geometry.canonical()
        truth = self.truth
        if damage:
            truth = np.ascontiguousarray(orientation.undo(damage(orientation.apply(truth), random)))
        return measure_labels(BoxedLabels(truth, label_boxes(truth)), self.predicted, self.geometry, STRUCTURES)


STRUCTURES: dict[str, tuple[int, ...]] = {}


def main() -> None:
    """Plant damage many times, and print the share that each method finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", help="patients of these folds; by default all")
    parser.add_argument(
        "--tests", type=Path, help="folder with <id>.nii.gz, the masks of the test patients, to add them"
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    task = open_review(Study("", options.results, options.results))
    STRUCTURES.update(structures_of(task.config))
    fold_of, study = task.assignment.fold_of, task.study
    files = {
        pair.id: (pair.mask, pair.prediction)
        for pair in task.pairs
        if options.folds is None or fold_of[pair.id] in options.folds
    }
    if options.tests:
        predictions = {path.name.removesuffix(".nii.gz"): path for path in study.test_predictions.glob("*.nii.gz")}
        files |= {name: (options.tests / f"{name}.nii.gz", path) for name, path in predictions.items()}
    patients = {}
    for name, (mask, prediction) in sorted(files.items()):
        truth, predicted, geometry, _ = read_masks(mask, prediction)
        patients[name] = Intact(truth.map, predicted, geometry)
    known = Measurements(patients, options.seed)
    show(known, DAMAGES, options, "kinds of damage, mixed")
    for name, damage in STRENGTHS.items():
        show(known, {name: damage}, options, name)


class Measurements:
    """Measurements of all patients, intact and with every damage, each made once."""

    def __init__(self, patients: Mapping[str, Intact], seed: int) -> None:
        self.patients, self._seed = patients, seed
        self._intact = {name: one.measured(None, np.random.default_rng()) for name, one in patients.items()}
        self._damaged: dict[tuple[str, str, int], Measured] = {}

    def with_damage(self, damaged: Mapping[str, tuple[str, Damage, int]]) -> dict[str, Measured]:
        """All patients, some of them damaged: kind, damage and variant by patient."""
        return {**self._intact, **{name: self._measured(name, *how) for name, how in damaged.items()}}

    def _measured(self, name: str, kind: str, damage: Damage, variant: int) -> Measured:
        key = (name, kind, variant)
        if key not in self._damaged:
            random = np.random.default_rng([self._seed, variant, *name.encode(), *kind.encode()])
            self._damaged[key] = self.patients[name].measured(damage, random)
        return self._damaged[key]


def simulated(
    known: Measurements, damages: Mapping[str, Damage], repetitions: int, seed: int
) -> Iterator[tuple[Mapping[str, str], Mapping[str, Collection[str]]]]:
    """Kind of damage by patient, and the queue of each method, for each repetition."""
    random = np.random.default_rng(seed)
    ids, kinds = list(known.patients), list(damages)
    length = max(1, round(SHARE * len(ids)))
    for _ in range(repetitions):
        planted = {str(name): str(random.choice(kinds)) for name in random.choice(ids, length, replace=False)}
        how = {name: (kind, damages[kind], int(random.integers(_VARIANTS))) for name, kind in planted.items()}
        found = known.with_damage(how)
        yield planted, {method: rank(found)[:length] for method, rank in METHODS.items()}


def show(known: Measurements, damages: Mapping[str, Damage], options: argparse.Namespace, title: str) -> None:
    """Print the share of damaged masks in the queue, by kind of damage and method."""
    hits: dict[tuple[str, str], list[bool]] = {}
    for planted, queues in simulated(known, damages, options.repetitions, options.seed):
        for method, queue in queues.items():
            for name, kind in planted.items():
                hits.setdefault((kind, method), []).append(name in queue)
    table = Table("", *METHODS, title=f"{title}: {len(known.patients)} patients, recall = precision")
    for kind in damages:
        table.add_row(kind, *(f"{np.mean(hits[kind, method]):.3f}" for method in METHODS))
    if len(damages) > 1:
        every = {method: np.concatenate([hits[kind, method] for kind in damages]) for method in METHODS}
        table.add_row("all", *(f"{every[method].mean():.3f}" for method in METHODS))
    Console().print(table)


if __name__ == "__main__":
    main()
