"""Every loss: golden numbers of the reference, and properties that hold for any input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mist_ops.imaging.distances import distance_maps
from mist_ops.losses.morphology import dilated
from mist_ops.losses.objective import make_objective
from mist_ops.losses.surface_dilation import dilation_kernel
from mist_ops.registry import LOSSES
from mist_ops.types import Spacing

ISOTROPIC = (1.0, 1.0, 1.0)
COMPOSITE = sorted(name for name in LOSSES if LOSSES[name].blended_with)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, 8, generator=generator)
    classes = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator)
    return logits, classes, torch.randn(2, 3, 8, 8, 8, generator=generator)


def value(name: str, alpha: float = 0.5, spacing: Spacing = ISOTROPIC, background: bool = True) -> float:
    logits, classes, dtm = inputs()
    objective = make_objective(name, spacing=spacing, include_background=background)
    return float(objective([logits], classes, dtm, alpha))


def test_the_inputs_equal_those_of_the_golden_numbers() -> None:
    logits, classes, dtm = inputs()
    assert logits.flatten()[:3].tolist() == pytest.approx([-1.1258398, -1.1523602, -0.2505786], abs=1e-7)
    assert (int(classes.sum()), float(dtm.sum())) == (981, pytest.approx(-26.41187, abs=1e-3))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("bl", (0.003856, 0.291486, 0.483239, 0.962622)),
        ("hdos", (0.271505, 0.478841, 0.617064, 0.962622)),
        ("gsl", (0.604842, 0.712176, 0.783732, 0.962622)),
        ("cldice", (0.664276, 0.753780, 0.813449, 0.962622)),
        ("volumetric_sddl", (0.083281, 0.347083, 0.522952, 0.962622)),
        ("vessel_sddl", (0.083281, 0.284431, 0.448365, 0.962622)),
    ],
)
def test_a_composite_loss_has_the_values_of_the_reference(name: str, expected: tuple[float, ...]) -> None:
    found = [value(name, alpha) for alpha in (0.0, 0.3, 0.5, 1.0)]
    assert found == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("dice", 0.551424),
        ("dice_ce", 0.966907),
        ("bl", 0.485382),
        ("hdos", 0.619206),
        ("gsl", 0.785874),
        ("cldice", 0.815592),
        ("volumetric_sddl", 0.525094),
        ("vessel_sddl", 0.449436),
    ],
)
def test_excluding_the_background_changes_only_overlap_terms(name: str, expected: float) -> None:
    assert value(name, 0.5, background=False) == pytest.approx(expected, abs=2e-6)


def test_dilation_of_thick_slices_is_in_mm() -> None:
    assert value("volumetric_sddl", 0.0, spacing=(1.0, 1.0, 3.0)) == pytest.approx(0.062146, abs=2e-6)


def test_a_point_is_dilated_by_the_same_distance_along_each_axis() -> None:
    # The reference swaps x and y here and dilates by 44 mm along x.
    assert dilation_kernel((4.0, 1.0, 1.0)) == (5, 11, 11)
    point = torch.zeros(1, 1, 21, 21, 21)
    point[..., 10, 10, 10] = 1
    found = dilated(point, dilation_kernel((4.0, 1.0, 1.0)))
    assert [int(found[0, 0].amax(dim=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [5, 11, 11]


def test_permuting_axes_and_spacing_together_does_not_change_the_loss() -> None:
    logits, classes, _ = inputs()
    one = make_objective("volumetric_sddl", spacing=(4.0, 1.0, 2.0))([logits], classes, alpha=0.0)
    turned = make_objective("volumetric_sddl", spacing=(1.0, 2.0, 4.0))
    other = turned([logits.permute(0, 1, 3, 4, 2)], classes.permute(0, 1, 3, 4, 2), alpha=0.0)
    assert float(one) == pytest.approx(float(other), abs=1e-6)


def box(present: bool = True) -> Tensor:
    classes = torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)
    classes[..., 3:9, 3:9, 3:9] = 1
    if present:
        classes[..., 10:14, 10:14, 10:14] = 2
    return classes


def distances(classes: Tensor) -> Tensor:
    maps = distance_maps(classes[0, 0].numpy(), 3, True)
    return torch.from_numpy(np.moveaxis(maps, -1, 0).astype(np.float32))[None]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("present", [True, False])
def test_value_and_gradient_are_finite_with_and_without_a_class(name: str, present: bool) -> None:
    classes = box(present)
    generator = torch.Generator().manual_seed(1)
    heads = [torch.randn(1, 3, n, n, n, generator=generator, requires_grad=True) for n in (16, 8, 4)]
    loss = make_objective(name, spacing=ISOTROPIC)(heads, classes, distances(classes), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(head.grad is not None and torch.isfinite(head.grad).all() and head.grad.any() for head in heads)


@pytest.mark.parametrize("name", LOSSES)
def test_the_truth_has_a_lower_loss_than_a_shifted_truth_and_than_no_prediction(name: str) -> None:
    classes = box()
    sure = 20.0 * torch.nn.functional.one_hot(classes[:, 0].long(), 3).movedim(-1, 1).float()
    candidates = (sure, sure.roll(2, dims=2), torch.zeros_like(sure))
    costs = [float(make_objective(name, spacing=ISOTROPIC)([x], classes, distances(classes), 0.5)) for x in candidates]
    assert costs[0] < costs[1]
    assert costs[0] < costs[2]


@pytest.mark.parametrize("name", LOSSES)
def test_the_truth_is_near_a_minimum(name: str) -> None:
    classes = box()
    sure = 20.0 * torch.nn.functional.one_hot(classes[:, 0].long(), 3).movedim(-1, 1).float()
    objective = make_objective(name, spacing=ISOTROPIC)
    sure.requires_grad_()
    objective([sure], classes, distances(classes), 0.5).backward()
    assert sure.grad is not None
    assert sure.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["cldice", "volumetric_sddl", "vessel_sddl"])
def test_an_empty_truth_and_prediction_give_a_finite_gradient(name: str) -> None:
    classes = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 8, 8, 8)
    logits[:, 0] = 200.0
    logits.requires_grad_()
    loss = make_objective(name, spacing=ISOTROPIC)([logits], classes, alpha=0.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
