"""Dice and cross-entropy compared with the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mist_ops.losses.dice import dice, dice_ce
from mist_ops.losses.objective import Prediction, make_objective, validation_loss


def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, 8, generator=generator)
    return logits, torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator)


def all_background(confidence: float) -> tuple[Tensor, Tensor]:
    logits = torch.zeros(1, 3, 8, 8, 8)
    logits[:, 0] = confidence
    return logits, torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)


def test_the_example_equals_that_of_the_reference() -> None:
    logits, classes = example()
    assert logits.sum().item() == pytest.approx(-5.40744, abs=1e-4)
    assert classes.sum().item() == 981


@pytest.mark.parametrize(
    "name, include_background, expected",
    [("dice", True, 0.542854), ("dice", False, 0.551424), ("dice_ce", True, 0.962622), ("dice_ce", False, 0.966907)],
)
def test_a_loss_has_the_value_of_the_reference(name: str, include_background: bool, expected: float) -> None:
    logits, classes = example()
    loss = make_objective(name, include_background=include_background)([logits], classes)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_validation_loss_is_dice_without_the_background() -> None:
    assert validation_loss(*example()).item() == pytest.approx(0.551424, abs=1e-6)


@pytest.mark.parametrize("confidence, expected", [(5.0, 0.99996), (20.0, 2e-9)])
def test_an_absent_class_has_loss_one_unless_its_probability_is_zero_everywhere(
    confidence: float, expected: float
) -> None:
    assert validation_loss(*all_background(confidence)).item() == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("name", ["dice", "dice_ce"])
def test_a_perfect_prediction_has_loss_zero(name: str) -> None:
    _, classes = example()
    logits = 50.0 * torch.nn.functional.one_hot(classes[:, 0], 3).movedim(-1, 1).float()
    assert make_objective(name)([logits], classes).item() == pytest.approx(0.0, abs=1e-6)


def test_half_precision_logits_are_evaluated_in_single_precision() -> None:
    logits, classes = example()
    loss = make_objective("dice_ce")([logits.bfloat16()], classes)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.962622, abs=1e-3)


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("loss", [dice, dice_ce])
def test_the_gradient_is_that_of_the_formula(loss: Callable[[Prediction], Tensor], include_background: bool) -> None:
    logits, classes = example()
    one, other = (logits[:, :, :4, :3, :2].double().requires_grad_() for _ in range(2))
    classes = classes[:, :, :4, :3, :2]
    loss(Prediction(one, classes, include_background=include_background)).mul(3.0).backward()
    probabilities, truth = other.softmax(dim=1), torch.nn.functional.one_hot(classes[:, 0], 3).movedim(-1, 1)
    first = 0 if include_background else 1
    differences = (truth - probabilities).square().sum(dim=(2, 3, 4))
    total = truth.sum(dim=(2, 3, 4)) + probabilities.square().sum(dim=(2, 3, 4))
    expected = (differences / (total + 1e-6))[:, first:].mean()
    if loss is dice_ce:
        expected = 0.5 * expected + 0.5 * torch.nn.functional.cross_entropy(other, classes[:, 0])
    expected.mul(3.0).backward()
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-9)


def test_the_gradient_of_half_precision_logits_is_in_half_precision() -> None:
    logits, classes = example()
    half = logits.bfloat16().requires_grad_()
    make_objective("dice_ce")([half], classes).backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
