"""Behavior specific to nnU-Net; that of every network is in ``test_architectures``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mist_ops.models.nnunet.network import UNet
from mist_ops.registry import MODELS
from mist_ops.types import Size, Spacing

ISOTROPIC = (1.0, 1.0, 1.0)


def built(name: str, patch: Size, spacing: Spacing = ISOTROPIC) -> nn.Module:
    return MODELS[name].build(1, 3, patch, spacing)


def test_heads_stay_at_their_own_resolution_finest_first() -> None:
    network = built("nnunet-pocket", (32, 32, 32)).train()
    sizes = [tuple(head.shape) for head in network(torch.zeros(1, 1, 32, 32, 32))]
    assert sizes == [(1, 3, 32, 32, 32), (1, 3, 16, 16, 16), (1, 3, 8, 8, 8)]


def test_the_same_seed_gives_the_same_weights() -> None:
    def first() -> Tensor:
        torch.manual_seed(3)
        network = built("nnunet-pocket", (32, 32, 32))
        assert isinstance(network, UNet)
        return next(network.parameters())

    assert torch.equal(first(), first())


@pytest.mark.parametrize("patch, spacing", [((40, 32, 48), ISOTROPIC), ((32, 32, 5), (1.0, 1.0, 5.0))])
def test_a_fitted_patch_passes_through_the_network(patch: Size, spacing: Spacing) -> None:
    fitted = MODELS["nnunet-pocket"].fit_patch_size(patch, spacing)
    network = built("nnunet-pocket", fitted, spacing).train()
    assert network(torch.zeros(1, 1, *fitted))[0].shape[2:] == fitted
