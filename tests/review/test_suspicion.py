"""Scores against what is usual in a study, and reasons in words."""

from __future__ import annotations

import pytest

from mist_ops.review.measures import Difference, Measured, Region
from mist_ops.review.mistakes import Mistake
from mist_ops.review.suspicion import Usuals, suspects

REGION = Region(of_mask=True, depth=4.0, volume_ml=0.2, place=(1.0, 2.0, 3.0))
WHERE = "Deepest disagreement: 0.2 ml that only the mask has, 4.0 mm deep at (1.0, 2.0, 3.0)."


def difference(dice: float = 0.9, ratio: float = 1.0) -> Difference:
    return Difference(dice, ratio, 1.0, REGION)


def patient(one: Difference, **others: Difference) -> Measured:
    return Measured(
        {"organ": one, **others}, one.dice, {"flipped": Mistake("flipped left to right", 0.3, 0.3 - one.dice)}
    )


def study(*odd: Difference, usual_dice: float = 0.9) -> dict[str, Measured]:
    """Ten usual patients, whose Dice differs by 0.01 from one to the next, and some odd ones."""
    differences = [*(difference(usual_dice + 0.01 * (place - 5)) for place in range(10)), *odd]
    return {f"p{place}": patient(one) for place, one in enumerate(differences)}


def test_what_is_usual_hardly_depends_on_a_few_damaged_masks() -> None:
    overlap = "organ", "overlap"
    alone = Usuals(study()).usual(overlap, "p0")
    among = Usuals(study(difference(0.0), difference(0.1))).usual(overlap, "p0")
    assert alone.median == pytest.approx(0.1)
    assert among.median == pytest.approx(alone.median, abs=0.011)
    assert among.spread == pytest.approx(alone.spread, rel=0.5)


@pytest.mark.parametrize(
    "odd, words",
    [
        (difference(0.5), "organ: Dice 0.50, usually 0.90."),
        (difference(ratio=0.5), "organ: the mask is 50 % smaller than the prediction, usually 0 % larger than it."),
        (difference(ratio=2.0), "organ: the mask is 100 % larger than the prediction, usually 0 % larger than it."),
    ],
)
def test_each_measure_finds_the_odd_one_and_says_why_and_where(odd: Difference, words: str) -> None:
    first, second, *_ = suspects(study(odd))
    assert first.id == "p10"
    assert first.reasons[0].startswith(words[:20])
    assert first.reasons[-1] == WHERE
    assert first.place == REGION.place
    assert first.score > 2 * second.score


def test_a_patient_who_is_better_than_usual_is_not_suspicious() -> None:
    better = Measured({"organ": difference(1.0)}, 1.0, {"flipped": Mistake("flipped left to right", 0.3, -0.7)})
    assert suspects({**study(), "better": better})[-1].id == "better"


def test_what_a_model_usually_gets_wrong_is_not_suspicious() -> None:
    """A Dice of 0.5 is unusual for one structure, and usual for another."""
    hard = {f"h{place}": Measured({"hard": difference(0.5 + 0.01 * (place - 5))}, 0.5, {}) for place in range(10)}
    scores = {suspect.id: suspect.score for suspect in suspects({**study(difference(0.5)), **hard})}
    assert scores["p10"] > 2 * max(scores[name] for name in hard)


def test_a_mask_that_a_simple_mistake_explains_comes_before_one_that_nothing_explains() -> None:
    """A model that fails on a patient is no mistake of the mask."""
    flipped = Measured({"organ": difference(0.6)}, 0.6, {"flipped": Mistake("flipped left to right", 0.9, 0.3)})
    first, second, *_ = suspects({**study(difference(0.6)), "odd": flipped})
    assert (first.id, second.id) == ("odd", "p10")
    assert first.reasons[0] == "The mask seems flipped left to right: mean Dice 0.60, and 0.90 after undoing that."


def test_a_structure_that_is_missing_is_named_once() -> None:
    gone = Difference(0.0, 0.0, 1.5, REGION)
    patients = {name: patient(difference(), other=one.differences["organ"]) for name, one in study().items()}
    first, *_ = suspects({**patients, "odd": Measured({"organ": gone, "other": difference()}, 0.45, {})})
    assert first.id == "odd"
    assert first.reasons == ("organ: missing in the mask; the prediction has 1.5 ml.", WHERE)


def test_a_structure_that_only_one_mask_has_is_suspicious() -> None:
    """There are no others to compare it with."""
    first, *_ = suspects({**study(), "odd": patient(difference(), extra=Difference(0.0, 2.0, 0.0, None))})
    assert first.id == "odd"
    assert first.reasons[0] == "extra: only in the mask, which has 2 ml."


def test_one_patient_and_an_empty_one_have_scores() -> None:
    alone, empty = suspects({"a": Measured({"organ": difference(1.0)}, 1.0, {}), "b": Measured({}, 1.0, {})})
    assert (alone.score, empty.score) == (0, 0)
    assert empty.reasons == ()
