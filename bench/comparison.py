"""How often two trainings of one method are called different, and how often a better method is found.

python bench/comparison.py STUDY --seeds 1 2 3 4 5 6

STUDY is a preprocessed study (a folder with dataset.json, numpy and results). It is trained with each seed by a short
recipe, as replicas in ``results/replicas``; trained folds are kept, so that the script can be stopped and run again.
Then: variance components; comparisons of real replicas; simulated comparisons from the measured variances.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import scipy
from rich.console import Console
from rich.table import Table

from mist_ops import api
from mist_ops.comparison.difference import compare_scores
from mist_ops.comparison.noise import components, noise_between, pooled
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.evaluation.columns import read_columns
from mist_ops.ranking.significance import holm
from mist_ops.replicas import replicate
from mist_ops.study import Study

RECIPE = {
    "model.architecture": "nnunet-pocket",
    "spatial_config.patch_size": [32, 32, 32],
    "training.epochs": 3,
    "training.min_steps_per_epoch": 20,
    "training.validation_every": 3,
    "training.warmup_epochs": 0,
    "training.batch_size_per_gpu": 1,
    "inference.tta.enabled": False,
    "inference.inferer.params.patch_overlap": 0.25,
}
LEVEL, REPETITIONS = 0.05, 1000

_HEADER = ("", "runs a side", "test of", "comparisons", "different (Holm)", "worst column")

Values = dict[str, np.ndarray]
"""Scores by run and patient, of each column."""

Test = Callable[[np.ndarray, np.ndarray], float]
"""Returns the p-value of two arrays of scores, run by patient."""


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    options = parser.parse_args()
    study = api.open_study(options.study / "results", numpy=options.study / "numpy")
    if any(read_config(study.config).values([path]) != {path: value} for path, value in RECIPE.items()):
        api.configure(study, RECIPE)
    replicas = [_trained(study, seed) for seed in options.seeds]
    fold_of = read_train_paths(study.train_paths).fold_of
    values = _scores(replicas, list(fold_of))
    folds = np.array(list(fold_of.values()))
    console = Console(width=120)
    for table in (_noise(values, folds), _real(values), _simulated(values, folds), _power(values, folds)):
        console.print(table)


def _trained(study: Study, seed: int) -> Study:
    replica = replicate(study, seed)
    for fold in read_config(study.config).training.folds:
        api.train(replica, fold, device="cpu", resume=True, workers=0)
    if not replica.results_csv.is_file():
        api.predict(replica, device="cpu").raise_for_failures()
        api.evaluate(replica)
    return replica


def _scores(replicas: list[Study], ids: list[str]) -> Values:
    tables = [read_columns(replica.results_csv)[1] for replica in replicas]
    found = {
        name: np.array([[table[name].scores[case_id] for case_id in ids] for table in tables]) for name in tables[0]
    }
    return {name: scores for name, scores in found.items() if np.isfinite(scores).all()}


def _noise(values: Values, folds: np.ndarray) -> Table:
    runs, patients = next(iter(values.values())).shape
    title = f"Standard deviations between {runs} runs, {patients} patients in {len(set(folds))} folds"
    table = Table("", "mean", "mean of a run", "run", "model of a fold", "patient", title=title)
    for name, scores in values.items():
        found = components(scores, folds)
        parts = [f"{np.sign(part) * abs(part) ** 0.5:.4f}" for part in (found.run, found.model, found.patient)]
        table.add_row(name, f"{scores.mean():.3f}", f"{noise_between(scores).runs.mean ** 0.5:.4f}", *parts)
    return table


def _of_runs(first: np.ndarray, second: np.ndarray) -> float:
    p = compare_scores(first, second, pooled([first, second])).p
    return 1.0 if p is None else p


def _of_patients(first: np.ndarray, second: np.ndarray) -> float:
    difference = second.mean(axis=0) - first.mean(axis=0)
    return float(scipy.stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def _different(sides: Iterator[tuple[Values, Values]], test: Test) -> tuple[int, int, int]:
    """Comparisons, those with any significant column after Holm's correction, and the largest count of a column."""
    found = np.array([[test(first[name], second[name]) for name in first] for first, second in sides])
    corrected = np.array([holm(row) for row in found])
    return len(found), int((corrected < LEVEL).any(axis=1).sum()), int((found < LEVEL).sum(axis=0).max())


def _rates(table: Table, label: str, count: int, sides: Callable[[], Iterator[tuple[Values, Values]]]) -> None:
    for test, name in ((_of_patients, "patients (Wilcoxon)"), *([(_of_runs, "runs")] if count > 1 else [])):
        total, any_column, worst = _different(sides(), test)
        shares = [f"{share} ({share / total:.1%})" for share in (any_column, worst)]
        table.add_row(label, str(count), name, str(total), *shares)


def _real(values: Values) -> Table:
    table = Table(
        "", "runs a side", "test of", "comparisons", "different (Holm)", "worst column", title="Real replicas"
    )
    total = len(next(iter(values.values())))
    for count in range(1, total // 2 + 1):
        _rates(table, "disjoint runs", count, lambda count=count: _splits(values, total, count))
    return table


def _splits(values: Values, total: int, count: int) -> Iterator[tuple[Values, Values]]:
    for first in combinations(range(total), count):
        for second in combinations(sorted(set(range(total)) - set(first)), count):
            if first < second:
                yield tuple({name: scores[list(runs)] for name, scores in values.items()} for runs in (first, second))


def _simulated(values: Values, folds: np.ndarray) -> Table:
    table = Table(*_HEADER, title="Simulated replicas of one method")
    for count in (1, 2, 3, 5):
        _rates(table, "normal", count, lambda count=count: _normal(values, folds, count))
    for count in (count for count in (1, 2, 3) if 2 * count <= len(next(iter(values.values())))):
        _rates(table, "real models", count, lambda count=count: _recombined(values, folds, count))
    return table


def _normal(values: Values, folds: np.ndarray, count: int) -> Iterator[tuple[Values, Values]]:
    """Runs with the measured variance components, columns independent."""
    generator = np.random.default_rng(count)
    spread = {name: components(scores, folds) for name, scores in values.items()}
    for _ in range(REPETITIONS):
        yield tuple({name: _run(generator, found, folds, count) for name, found in spread.items()} for _ in range(2))


def _run(generator: np.random.Generator, found: object, folds: np.ndarray, count: int) -> np.ndarray:
    run, model, patient = (max(0.0, getattr(found, part)) ** 0.5 for part in ("run", "model", "patient"))
    drawn = generator.normal(0, model, (count, folds.max() + 1))[:, folds]
    return generator.normal(0, run, (count, 1)) + drawn + generator.normal(0, patient, (count, len(folds)))


def _recombined(values: Values, folds: np.ndarray, count: int) -> Iterator[tuple[Values, Values]]:
    """Runs whose models are real ones of any seed, drawn for each fold without replacement, in all columns alike.

    They keep the real distribution of the errors of models and patients, and have no effect of the run as a whole.
    """
    generator, total = np.random.default_rng(count), len(next(iter(values.values())))
    for _ in range(REPETITIONS):
        chosen = np.stack([generator.permutation(total)[: 2 * count] for _ in range(folds.max() + 1)], axis=1)
        mixed = {name: scores[chosen[:, folds], np.arange(len(folds))] for name, scores in values.items()}
        yield tuple(
            {name: scores[part] for name, scores in mixed.items()} for part in (slice(count), slice(count, None))
        )


def _power(values: Values, folds: np.ndarray) -> Table:
    """How often a gain in one of the columns is found, at the level that Holm's correction leaves for it."""
    gains = (0.01, 0.02, 0.05, 0.1)
    table = Table("", "runs a side", *map(str, gains), title="Better methods that are found, by the gain in Dice")
    for name in (name for name in values if name.endswith("dice")):
        found, level = components(values[name], folds), LEVEL / len(values)
        for count in (2, 3, 5, 8):
            generator, shares = np.random.default_rng(count), []
            for gain in gains:
                drawn = [[_run(generator, found, folds, count) for _ in range(2)] for _ in range(REPETITIONS)]
                p = np.array([_of_runs(first, second + gain) for first, second in drawn])
                shares.append(f"{(p < level).mean():.0%}")
            table.add_row(name, str(count), *shares)
    return table


if __name__ == "__main__":
    main()
