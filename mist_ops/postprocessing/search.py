"""Search for the postprocessing strategy that improves cross-validation predictions.

Forward selection: each round adds the step that raises the mean score most, if the gain is large enough and
statistically significant. The benefit is estimated on held-out patients, fold by fold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import scipy
from jaxtyping import Bool, Float64

from mist_ops.errors import CaseError, DatasetError, MistError, counted
from mist_ops.imaging.nifti import read_labels
from mist_ops.postprocessing.case import Prediction
from mist_ops.postprocessing.strategy import ALL, Step, Strategy, apply, to_json
from mist_ops.types import Json, LabelMap
from mist_ops.workers import Outcome, outcomes

Score: TypeAlias = Callable[[Prediction, LabelMap], float]
"""Score of a postprocessed mask of a prediction; higher is better. Must be picklable for several workers."""

Members: TypeAlias = Bool[np.ndarray, " patient"]
Scores: TypeAlias = Float64[np.ndarray, " patient"]

VOLUMES = (10.0, 50.0, 250.0, 1000.0)
"""Thresholds in mm³: from noise at any resolution to the size of a lesion."""


@dataclass(frozen=True)
class Rules:
    """Conditions for keeping a step.

    Attributes:
        min_gain: Minimum gain of the mean score, exclusive.
        max_p: Maximum p-value of the patients' gains, corrected for the number of steps tried.
        max_steps: Maximum number of steps of a strategy.
    """

    min_gain: float = 1e-3
    max_p: float = 0.05
    max_steps: int = 5


@dataclass(frozen=True)
class Trial:
    """A step that was tried.

    Attributes:
        place: Position in the strategy, from 1; trials with the same place competed for it.
        step: The step.
        before: Mean score without it.
        after: Mean score with it.
        better: Patients whose score rose.
        worse: Patients whose score fell.
        p: One-sided p-value of the gains, times the number of steps that competed; 1 if no score changed.
        kept: Whether it was added to the strategy.
    """

    place: int
    step: Step
    before: float
    after: float
    better: int
    worse: int
    p: float
    kept: bool


@dataclass(frozen=True)
class Choice:
    """A strategy and how it was chosen.

    Attributes:
        strategy: The steps that were kept.
        before: Mean score of the predictions.
        after: Mean score of the same patients with the strategy.
        held_out: Mean score if each fold's patients get the strategy that the other folds choose, an estimate for new
            patients; None without folds.
        trials: All trials, in order.
        failures: Reasons by id, of patients that could not be scored.
    """

    strategy: Strategy
    before: float
    after: float
    held_out: float | None
    trials: tuple[Trial, ...]
    failures: Mapping[str, str]

    def to_json(self) -> Json:
        """The choice as JSON, with steps as in a strategy file."""
        trials = [{**vars(trial), "step": to_json((trial.step,))[0]} for trial in self.trials]
        fields = {"before": self.before, "after": self.after, "held_out": self.held_out}
        return {"strategy": to_json(self.strategy), **fields, "trials": trials, "failures": dict(self.failures)}


def candidates(labels: Iterable[int], volumes: Sequence[float] = VOLUMES) -> tuple[Step, ...]:
    """Steps to try: remove small objects and keep the largest, for all labels and for each; fill the holes of each.

    Args:
        labels: Labels of the predictions; background is ignored.
        volumes: Thresholds of small objects, in mm³.
    """
    steps = [*_by_size((ALL,), per_label=False, volumes=volumes)]
    for label in sorted({*labels} - {0}):
        steps += _by_size((label,), per_label=True, volumes=volumes)
        steps.append(Step("fill_holes_with_label", (label,), True, {"fill_holes_label": label}))
    return tuple(steps)


def _by_size(labels: tuple[int, ...], per_label: bool, volumes: Sequence[float]) -> list[Step]:
    small = [Step("remove_small_objects", labels, per_label, {"small_object_volume_mm3": volume}) for volume in volumes]
    return [*small, Step("get_top_k_connected_components", labels, per_label, {"top_k_connected_components": 1})]


def search(
    predictions: Sequence[Prediction],
    score: Score,
    steps: Sequence[Step],
    folds: Mapping[str, int] | None = None,
    workers: int = 1,
    rules: Rules = Rules(),
) -> Choice:
    """Choose a strategy by forward selection.

    Patients whose prediction cannot be read or scored are excluded and listed in ``failures``.

    Args:
        predictions: Predictions of held-out patients.
        score: The score to raise, such as the mean Dice of all classes.
        steps: Steps to try, such as ``candidates``.
        folds: Fold of each patient by id, for the estimate on held-out patients.
        workers: Number of processes.
        rules: Conditions for keeping a step.

    Raises:
        DatasetError: No patient could be scored.
    """
    table = _Table(predictions, score, workers)
    everyone = np.ones(len(table.ids), dtype=bool)
    strategy, trials = _selected(table, steps, everyone, rules)
    baseline, chosen = table.scores([(), strategy])
    return Choice(
        strategy=strategy,
        before=float(baseline.mean()),
        after=float(chosen.mean()),
        held_out=_held_out(table, steps, folds, rules) if folds is not None else None,
        trials=tuple(trials),
        failures=table.failures,
    )


class _Table:
    """Scores by strategy and patient, each computed once."""

    def __init__(self, predictions: Sequence[Prediction], score: Score, workers: int) -> None:
        self._score, self._workers = score, workers
        found = list(outcomes(partial(_scores, score, [()]), predictions, workers))
        known = [(outcome.item, outcome.result[0]) for outcome in found if outcome.result is not None]
        errors = [CaseError.of(outcome.item.id, outcome.error) for outcome in found if outcome.error]
        self.failures = {str(error.case): str(error) for error in errors}
        if not known:
            reason = f" {errors[0].message}" if errors else ""
            raise DatasetError(
                f"None of {counted(len(found), 'prediction')} could be scored.{reason}",
                code="predictions-unscored",
                found=list(self.failures),
            )
        self._predictions = [prediction for prediction, _ in known]
        self._known: dict[str, Scores] = {_key(()): np.array([value for _, value in known])}

    @property
    def ids(self) -> list[str]:
        """Patient ids, in the order of the scores."""
        return [prediction.id for prediction in self._predictions]

    def scores(self, strategies: Sequence[Strategy]) -> list[Scores]:
        """Scores of all patients for each strategy."""
        missing = [strategy for strategy in strategies if _key(strategy) not in self._known]
        if missing:
            rows = [_certain(outcome) for outcome in self._computed(missing)]
            for strategy, column in zip(missing, np.array(rows, dtype=np.float64).T, strict=True):
                self._known[_key(strategy)] = column
        return [self._known[_key(strategy)] for strategy in strategies]

    def _computed(self, strategies: Sequence[Strategy]) -> Iterator[Outcome[Prediction, list[float]]]:
        return outcomes(partial(_scores, self._score, strategies), self._predictions, self._workers)


def _scores(score: Score, strategies: Sequence[Strategy], prediction: Prediction) -> list[float]:
    """Scores of a prediction for each strategy; the file is read once, and equal masks are scored once."""
    labels, geometry = read_labels(prediction.path)
    known: dict[bytes, float] = {}
    scores = []
    for strategy in strategies:
        changed = apply(strategy, labels, geometry.spacing)
        content = hashlib.blake2b(changed.tobytes()).digest()
        if content not in known:
            known[content] = score(prediction, changed)
        scores.append(known[content])
    return scores


def _certain(outcome: Outcome[Prediction, list[float]]) -> list[float]:
    if outcome.result is None:  # the user is not at fault: the prediction was scored without a strategy before
        raise CaseError.of(
            outcome.item.id, outcome.error or MistError("it has no score.", code="score-missing")
        ) from outcome.error
    return outcome.result


def _key(strategy: Strategy) -> str:
    return json.dumps(to_json(strategy), sort_keys=True)


def _selected(table: _Table, steps: Sequence[Step], who: Members, rules: Rules) -> tuple[Strategy, list[Trial]]:
    """Add the best step for the members until none helps."""
    strategy: Strategy = ()
    trials: list[Trial] = []
    while len(strategy) < rules.max_steps:
        place = len(strategy) + 1
        tried = [step for step in steps if step not in strategy]
        before, *after = (scores[who] for scores in table.scores([strategy, *((*strategy, step) for step in tried)]))
        found = [_trial(place, step, before, scores, len(tried)) for step, scores in zip(tried, after, strict=True)]
        helping = [trial for trial in found if trial.after - trial.before > rules.min_gain and trial.p <= rules.max_p]
        best = max(helping, key=lambda trial: trial.after, default=None)
        trials += [replace(trial, kept=trial is best) for trial in found]
        if best is None:
            break
        strategy = (*strategy, best.step)
    return strategy, trials


def _trial(place: int, step: Step, before: Scores, after: Scores, tried: int) -> Trial:
    gains = np.round(after - before, 12)
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    p = min(1.0, tried * _p_value(gains))
    return Trial(place, step, float(before.mean()), float(after.mean()), better, worse, p, kept=False)


def _p_value(gains: Scores) -> float:
    """One-sided signed-rank test for gains (Wilcoxon, 1945); 1 if nothing changed."""
    return float(scipy.stats.wilcoxon(gains, alternative="greater").pvalue) if gains.any() else 1.0


def _held_out(table: _Table, steps: Sequence[Step], folds: Mapping[str, int], rules: Rules) -> float:
    """Mean score of all patients, each with the strategy chosen on the other folds."""
    fold_of = np.array([folds[case_id] for case_id in table.ids])
    scores = np.empty(len(fold_of))
    for fold in sorted(set(fold_of.tolist())):
        mine = fold_of == fold
        strategy, _ = _selected(table, steps, ~mine, rules) if not mine.all() else ((), [])
        scores[mine] = table.scores([strategy])[0][mine]
    return float(scores.mean())
