"""Deep supervision, composite losses and errors of the objective."""

from __future__ import annotations

import pytest
import torch
from expect import refuses
from torch import Tensor

from mist_ops.errors import ConfigError
from mist_ops.losses import Loss
from mist_ops.losses.objective import Objective, Prediction, make_objective

CLASSES = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(5))


def logits(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(6))


def test_heads_at_full_resolution_give_the_total_of_the_reference() -> None:
    truth = torch.Generator().manual_seed(0)
    torch.randn(2, 3, 8, 8, 8, generator=truth)
    classes = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=truth)
    generator = torch.Generator().manual_seed(1)
    heads = [torch.randn(2, 3, 8, 8, 8, generator=generator) for _ in range(3)]
    objective = make_objective("dice_ce")
    assert [objective([head], classes).item() for head in heads] == pytest.approx(
        [0.963615, 1.003323, 0.974136], abs=1e-6
    )
    assert objective(heads, classes).item() == pytest.approx(0.976463, abs=1e-6)


def test_a_coarse_head_is_compared_with_every_second_voxel() -> None:
    objective = make_objective("dice_ce")
    fine, coarse = logits(8, 8, 8), logits(4, 4, 4)
    expected = (2 * objective([fine], CLASSES) + objective([coarse], CLASSES[:, :, ::2, ::2, ::2])) / 3
    assert objective([fine, coarse], CLASSES).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_composite_loss_is_the_weighted_sum_of_its_terms() -> None:
    objective = Objective(Loss(lambda prediction: prediction.logits.new_tensor(3.0), blended_with="dice_ce"))
    plain = make_objective("dice_ce")([logits(8, 8, 8)], CLASSES)
    blended = objective([logits(8, 8, 8)], CLASSES, alpha=0.25)
    assert blended.item() == pytest.approx(0.25 * plain.item() + 0.75 * 3.0, abs=1e-6)


def test_a_term_without_weight_is_not_computed() -> None:
    def never(prediction: Prediction) -> Tensor:
        raise AssertionError

    objective = Objective(Loss(never, blended_with="dice_ce"))
    plain = make_objective("dice_ce")([logits(8, 8, 8)], CLASSES)
    assert objective([logits(8, 8, 8)], CLASSES, alpha=1.0).item() == pytest.approx(plain.item(), abs=1e-6)


def test_a_loss_that_is_not_native_gets_upsampled_heads() -> None:
    sizes: list[tuple[int, ...]] = []

    def sees(prediction: Prediction) -> Tensor:
        sizes.append(tuple(prediction.truth.shape[2:]))
        return prediction.logits.mean()

    Objective(Loss(sees, native=False))([logits(8, 8, 8), logits(4, 4, 4)], CLASSES)
    assert sizes == [(8, 8, 8), (8, 8, 8)]


def test_distance_maps_are_subsampled_with_the_truth() -> None:
    def sees(prediction: Prediction) -> Tensor:
        assert prediction.dtm is not None
        assert prediction.dtm.shape == prediction.truth.shape
        return prediction.dtm.mean()

    objective = Objective(Loss(sees, needs={"dtm"}))
    dtm = torch.ones(2, 3, 8, 8, 8)
    assert objective([logits(8, 8, 8), logits(4, 4, 4)], CLASSES, dtm).item() == pytest.approx(1.0)


def test_missing_distance_maps_are_refused() -> None:
    objective = Objective(Loss(lambda prediction: prediction.logits.sum(), needs={"dtm"}))
    with pytest.raises(ValueError, match="dtm"):
        objective([logits(8, 8, 8)], CLASSES)


def test_logits_and_classes_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        make_objective("dice")([logits(4, 4, 4)], CLASSES)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes"):
        make_objective("dice")([torch.zeros(2, 1, 8, 8, 8)], CLASSES)


def test_an_unknown_loss_is_refused_with_a_guess() -> None:
    with refuses("unknown-loss", ConfigError, names="Did you mean 'dice_ce'", found="dice_cee"):
        make_objective("dice_cee")
