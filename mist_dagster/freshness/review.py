"""The review queue with what people decided, and what follows from a corrected mask."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mist_ops.errors import counted, few
from mist_ops.records.reviews import Review, read_reviews
from mist_ops.review.queue import Entry, Sorted, read_queue, sort_queue
from mist_ops.review.study import open_review
from mist_ops.study import Study

Stale: TypeAlias = Mapping[str, Mapping[str, str]]
"""What is stale, by stage and partition, with the reasons."""


@dataclass(frozen=True)
class Way:
    """What can be done with a corrected mask.

    Attributes:
        name: In a word.
        effect: What it does, and how long it takes where that is known.
        command: Its command line.
        job: The job that does the same.
    """

    name: str
    effect: str
    command: str
    job: str


@dataclass(frozen=True)
class Reviewed:
    """The review queue of a study with what people decided.

    Attributes:
        queue: The patients by verdict.
        reviews: Comments by patient.
        ways: What can be done with the corrected masks that models have not seen; none if there are no such masks.
        waiting: These patients.
        unlabeled: Test patients, those first whose masks would teach most; none before they were ranked.
    """

    queue: Sorted
    reviews: Mapping[str, Review]
    ways: Sequence[Way]
    waiting: Sequence[str]
    unlabeled: Sequence[Entry]


def reviewed(study: Study, find: Callable[[], tuple[Stale, str]]) -> Reviewed:
    """Read the queue and the verdicts of a study.

    Args:
        study: The study; its queue exists.
        find: Returns what of the study is stale, and in words how long that takes, or nothing if it is not known. It is
            called only if a mask was corrected.
    """
    reviews = read_reviews(study.reviews)
    queue = sort_queue(read_queue(study.review_queue), reviews, open_review(study).masks(reviews))
    unlabeled = read_queue(study.label_queue) if study.label_queue.is_file() else []
    if not queue.corrected:
        return Reviewed(queue, reviews, (), (), unlabeled)
    stale, hours = find()
    waiting = [entry.id for entry in queue.corrected if entry.id in stale.get("preprocess", {})]
    return Reviewed(queue, reviews, _ways(study, stale, hours, waiting) if waiting else (), waiting, unlabeled)


def _ways(study: Study, stale: Stale, hours: str, waiting: Sequence[str]) -> list[Way]:
    results = shlex.quote(str(_shown(study.results)))
    trained = counted(len(stale.get("train", {})), "fold")
    return [
        Way(
            "retrain",
            f"trains {trained} from scratch, and rebuilds what follows{f', in about {hours}' if hours else ''}",
            f"mist_plan --results {results} --apply",
            "make_current",
        ),
        Way(
            "warm start",
            f"trains {trained} from the present weights, which the passports record; fewer epochs take less time",
            f"mist_plan --results {results} --apply --warm-start",
            "make_current",
        ),
        Way(
            "accept",
            "keeps the models that were trained with the old mask, and the reason in their passports",
            f"mist_keep --results {results} --stage preprocess --only {shlex.join(waiting)} --reason '...'",
            "keep",
        ),
    ]


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path


def report_review(study: Study, found: Reviewed, length: int) -> Iterator[str]:
    """The queue as lines for people.

    Args:
        study: The study.
        found: Its queue.
        length: Number of patients to list.
    """
    queue = found.queue
    listed = queue.open[:length]
    parts = [f"{len(queue.open)} to review", f"{len(queue.settled)} settled", f"{len(queue.to_fix)} to correct"]
    total = sum(map(len, (queue.open, queue.settled, queue.to_fix)))
    yield f"Masks of {counted(total, 'patient')}: {', '.join(parts)}."
    for place, entry in enumerate(listed, start=1):
        yield from _lines(place, entry, found.reviews.get(entry.id))
    if len(queue.open) > len(listed):
        yield f"{len(queue.open) - len(listed)} more in {_shown(study.review_queue)}."
    for name, entries in (("Settled", queue.settled), ("Waiting for a corrected mask", queue.to_fix)):
        if entries:
            verdicts = [f"{entry.id} ({found.reviews[entry.id].verdict})" for entry in entries]
            yield f"{name}, by reviews.csv: {few(verdicts, 20)}."
    if found.unlabeled:
        patients = counted(len(found.unlabeled), "test patient")
        yield f"{patients} by how much the models of the folds disagree (100 minus the mean Dice between them in %):"
        for place, entry in enumerate(found.unlabeled[:length], start=1):
            yield from _lines(place, entry, None)
    if found.ways:
        yield f"Corrected, and not yet in the models: {few(found.waiting, 20)}. Three ways on:"
        for way in found.ways:
            yield f"  {way.name}: {way.effect}"
            yield f"    {way.command}"


def _lines(place: int, entry: Entry, review: Review | None) -> Iterator[str]:
    before = f", mask changed since the verdict '{review.verdict}'" if review and review.verdict else ""
    fold = "" if entry.fold is None else f", fold {entry.fold}"
    yield f"{place:3}. {entry.id}  score {entry.score:.1f}{fold}{before}"
    yield from (f"     {reason}" for reason in entry.reasons)
