"""The choice of a strategy: which of a few steps help the predictions of cross-validation, tried one on another.

Steps are added one at a time, each time the one that raises the mean score of the patients most, as long as it raises
it by enough and so consistently that chance is no likely reason. What a strategy found like this is worth is judged on
patients that had no say in it, fold by fold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from mist_ops.errors import CaseError, DatasetError, MistError
from mist_ops.imaging.nifti import read_labels
from mist_ops.postprocessing.case import Prediction
from mist_ops.postprocessing.strategy import ALL, Step, Strategy, apply, to_json
from mist_ops.types import Json, LabelMap
from mist_ops.workers import Outcome, outcomes

Score: TypeAlias = Callable[[Prediction, LabelMap], float]
"""Scores a mask that stands for a prediction; higher is better. Picklable where several processes are used."""

Members: TypeAlias = Bool[np.ndarray, " patient"]
Scores: TypeAlias = Float64[np.ndarray, " patient"]

VOLUMES = (10.0, 50.0, 250.0, 1000.0)
"""In mm³: from what is noise at any resolution to what may be a lesion."""


@dataclass(frozen=True)
class Rules:
    """When a step is kept.

    Attributes:
        min_gain: The mean score must rise by more than this.
        max_p: The p-value of the patients' gains, corrected for the number of steps tried, must not exceed this.
        max_steps: Steps of a strategy at most.
    """

    min_gain: float = 1e-3
    max_p: float = 0.05
    max_steps: int = 5


@dataclass(frozen=True)
class Trial:
    """A step that was tried.

    Attributes:
        place: Of the step in the strategy, from 1 on; those with the same place competed for it.
        step: What was tried.
        before: Mean score without it.
        after: Mean score with it.
        better: Patients whose score rose.
        worse: Patients whose score fell.
        p: One-sided p-value of the gains, times the number of steps that competed; 1 if no score changed.
        kept: Whether it became part of the strategy.
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
    """A strategy and why it was chosen.

    Attributes:
        strategy: The steps that help; none if none does.
        before: Mean score of the predictions.
        after: Mean score of the same patients with the strategy.
        held_out: Mean score where each fold's patients got the strategy that the others would choose, which is what
            new patients can be expected to gain; None without folds.
        trials: All that was tried, in order.
        failures: Why a patient could not take part, by id.
    """

    strategy: Strategy
    before: float
    after: float
    held_out: float | None
    trials: tuple[Trial, ...]
    failures: Mapping[str, str]

    def to_json(self) -> Json:
        """All of it as JSON, steps in the layout of a strategy file."""
        trials = [{**vars(trial), "step": to_json((trial.step,))[0]} for trial in self.trials]
        fields = {"before": self.before, "after": self.after, "held_out": self.held_out}
        return {"strategy": to_json(self.strategy), **fields, "trials": trials, "failures": dict(self.failures)}


def candidates(labels: Iterable[int], volumes: Sequence[float] = VOLUMES) -> tuple[Step, ...]:
    """The steps worth trying: for all labels together and for each alone, small objects, all but one, and holes.

    Args:
        labels: Those that may be predicted; background is left out.
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

    A patient whose prediction cannot be read or scored is named in the result and takes no part.

    Args:
        predictions: Of patients whose truth is known, by models that never saw them.
        score: What is to be raised, such as the mean Dice of all classes.
        steps: Those to try, as of ``candidates``.
        folds: The fold of each patient by id, for the estimate on patients that had no say.
        workers: Processes to use.
        rules: When a step is kept.

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
        self.failures = {outcome.item.id: _told(outcome.item.id, outcome.error) for outcome in found if outcome.error}
        if not known:
            reason = next(iter(self.failures.values()), "There are none.")
            raise DatasetError(f"None of the {len(found)} predictions could be scored. {reason}")
        self._predictions = [prediction for prediction, _ in known]
        self._known: dict[str, Scores] = {_key(()): np.array([value for _, value in known])}

    @property
    def ids(self) -> list[str]:
        """The patients, in the order of the scores."""
        return [prediction.id for prediction in self._predictions]

    def scores(self, strategies: Sequence[Strategy]) -> list[Scores]:
        """The scores of all patients for each strategy."""
        missing = [strategy for strategy in strategies if _key(strategy) not in self._known]
        if missing:
            rows = [_certain(outcome) for outcome in self._computed(missing)]
            for strategy, column in zip(missing, np.array(rows, dtype=np.float64).T, strict=True):
                self._known[_key(strategy)] = column
        return [self._known[_key(strategy)] for strategy in strategies]

    def _computed(self, strategies: Sequence[Strategy]) -> Iterator[Outcome[Prediction, list[float]]]:
        return outcomes(partial(_scores, self._score, strategies), self._predictions, self._workers)


def _scores(score: Score, strategies: Sequence[Strategy], prediction: Prediction) -> list[float]:
    """The score of a prediction for each strategy; the file is read once, and masks that are equal are scored once."""
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


def _told(case_id: str, error: Exception) -> str:
    return str(error) if isinstance(error, CaseError) else str(CaseError(case_id, str(error)))


def _certain(outcome: Outcome[Prediction, list[float]]) -> list[float]:
    """The scores of a prediction that could be scored as it is, so that a failure is none of the user's making."""
    if outcome.result is None:
        raise MistError(_told(outcome.item.id, outcome.error or MistError("no score"))) from outcome.error
    return outcome.result


def _key(strategy: Strategy) -> str:
    return json.dumps(to_json(strategy), sort_keys=True)


def _selected(table: _Table, steps: Sequence[Step], who: Members, rules: Rules) -> tuple[Strategy, list[Trial]]:
    """Add the best step that helps the members, again and again until none does."""
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
    """One-sided signed-rank test that there are gains (Wilcoxon, 1945); 1 if nothing changed."""
    from scipy.stats import wilcoxon  # loads for half a second: only where it works

    return float(wilcoxon(gains, alternative="greater").pvalue) if gains.any() else 1.0


def _held_out(table: _Table, steps: Sequence[Step], folds: Mapping[str, int], rules: Rules) -> float:
    """The mean score of all patients, each with the strategy that those of the other folds would choose."""
    fold_of = np.array([folds[case_id] for case_id in table.ids])
    scores = np.empty(len(fold_of))
    for fold in sorted(set(fold_of.tolist())):
        mine = fold_of == fold
        strategy, _ = _selected(table, steps, ~mine, rules) if not mine.all() else ((), [])
        scores[mine] = table.scores([strategy])[0][mine]
    return float(scores.mean())
