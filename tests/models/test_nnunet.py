"""The networks against the reference: how many weights they have, and what they compute with weights set by formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mist_ops.errors import ConfigError
from mist_ops.models.networks.unet import UNet
from mist_ops.registry import MODELS
from mist_ops.types import Size, Spacing

ISOTROPIC = (1.0, 1.0, 1.0)


def built(name: str, patch: Size, spacing: Spacing = ISOTROPIC, channels: int = 1, classes: int = 3) -> nn.Module:
    return MODELS[name].build(channels, classes, patch, spacing)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def set_by_formula(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            values = 0.05 * torch.arange(1, parameter.numel() + 1, dtype=torch.float64).sin()
            parameter.data = values.reshape(parameter.shape).float()
        else:
            parameter.data = torch.full_like(parameter, 0.01 if name.endswith("bias") else 1.0)


def waves(patch: Size) -> Tensor:
    voxels = patch[0] * patch[1] * patch[2]
    return (0.01 * torch.arange(voxels, dtype=torch.float64)).sin().float().reshape(1, 1, *patch)


@pytest.mark.parametrize(
    "name, patch, spacing, expected",
    [
        ("nnunet", (32, 32, 32), ISOTROPIC, 5_645_769),
        ("nnunet", (64, 64, 64), ISOTROPIC, 16_671_305),
        ("nnunet", (128, 128, 128), ISOTROPIC, 31_420_425),
        ("nnunet", (256, 256, 16), (0.7, 0.7, 3.0), 30_784_969),
        ("nnunet", (64, 64, 8), (1.0, 1.0, 4.0), 16_185_353),
        ("nnunet-pocket", (32, 32, 32), ISOTROPIC, 472_457),
        ("nnunet-pocket", (64, 64, 64), ISOTROPIC, 620_265),
        ("nnunet-pocket", (128, 128, 128), ISOTROPIC, 768_073),
        ("nnunet-pocket", (256, 256, 16), (0.7, 0.7, 3.0), 644_617),
    ],
)
def test_a_network_has_as_many_weights_as_the_reference(
    name: str, patch: Size, spacing: Spacing, expected: int
) -> None:
    with torch.device("meta"):
        assert parameters(built(name, patch, spacing)) == expected


def test_channels_and_classes_change_only_the_ends() -> None:
    with torch.device("meta"):
        assert parameters(built("nnunet-pocket", (128, 128, 128), channels=4, classes=4)) == 770_860


@pytest.mark.parametrize(
    "name, patch, spacing, mean, std, voxel, head_means, head_stds",
    [
        ("nnunet", (32, 32, 32), ISOTROPIC, 0.019802, 0.026207, (0.02507, 0.03107, 0.03008),
         (0.02036, 0.0133), (0.04865, 0.21687)),
        ("nnunet", (64, 64, 8), (1.0, 1.0, 4.0), 0.017157, 0.028490, (0.00845, 0.00852, 0.00909),
         (0.01786, 0.01255), (0.05243, 0.14404)),
        ("nnunet-pocket", (32, 32, 32), ISOTROPIC, 0.019785, 0.026256, (0.03132, 0.02965, 0.02147),
         (0.01905, 0.02061), (0.0268, 0.02668)),
    ],
)  # fmt: skip
def test_a_network_computes_what_the_reference_computes(
    name: str,
    patch: Size,
    spacing: Spacing,
    mean: float,
    std: float,
    voxel: tuple[float, ...],
    head_means: tuple[float, ...],
    head_stds: tuple[float, ...],
) -> None:
    network = built(name, patch, spacing)
    set_by_formula(network)
    with torch.no_grad():
        logits, *heads = network.train()(waves(patch))
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((mean, std), abs=1e-6)
    assert logits[0, :, 5, 6, 7].tolist() == pytest.approx(voxel, abs=1e-5)
    assert [head.mean().item() for head in heads] == pytest.approx(head_means, abs=1e-5)
    # The reference enlarges its heads first, which changes the divisor n - 1 of the standard deviation.
    assert [head.std(correction=0).item() for head in heads] == pytest.approx(head_stds, abs=1e-5)


def test_heads_stay_at_their_own_resolution_finest_first() -> None:
    network = built("nnunet-pocket", (32, 32, 32)).train()
    sizes = [tuple(head.shape) for head in network(torch.zeros(1, 1, 32, 32, 32))]
    assert sizes == [(1, 3, 32, 32, 32), (1, 3, 16, 16, 16), (1, 3, 8, 8, 8)]


def test_in_evaluation_only_the_finest_logits_are_left() -> None:
    network = built("nnunet-pocket", (32, 32, 32)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


@pytest.mark.parametrize("edge, entries", [(64, 83), (128, 100)])
def test_every_weight_has_one_name(edge: int, entries: int) -> None:
    network = built("nnunet-pocket", (edge, edge, edge))
    state = network.state_dict()
    assert len(state) == entries
    assert len({tensor.data_ptr() for tensor in state.values()}) == entries


def test_every_weight_gets_a_gradient() -> None:
    network = built("nnunet-pocket", (32, 32, 32)).train()
    sum(head.square().mean() for head in network(torch.randn(1, 1, 32, 32, 32))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_same_seed_gives_the_same_weights() -> None:
    def first() -> Tensor:
        torch.manual_seed(3)
        network = built("nnunet-pocket", (32, 32, 32))
        assert isinstance(network, UNet)
        return next(network.parameters())

    assert torch.equal(first(), first())


def test_an_unknown_parameter_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'kernel_size'"):
        MODELS["nnunet"].build(1, 3, (32, 32, 32), ISOTROPIC, kernel_size=5)


@pytest.mark.parametrize("patch, spacing", [((40, 32, 48), ISOTROPIC), ((32, 32, 5), (1.0, 1.0, 5.0))])
def test_a_fitted_patch_passes_through_the_network(patch: Size, spacing: Spacing) -> None:
    fitted = MODELS["nnunet-pocket"].fit_patch_size(patch, spacing)
    network = built("nnunet-pocket", fitted, spacing).train()
    assert network(torch.zeros(1, 1, *fitted))[0].shape[2:] == fitted
