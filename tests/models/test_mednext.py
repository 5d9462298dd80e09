from __future__ import annotations

import pytest
import torch
from expect import refuses

from mist_ops.errors import ConfigError
from mist_ops.models.mednext.network import UpBlock
from mist_ops.registry import MODELS

ISOTROPIC = (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name, kernel, expected", [("mednext-base", 5, 10_943_407), ("mednext-small", 7, 6_939_183)])
def test_a_larger_kernel_adds_as_many_weights_as_in_the_reference(name: str, kernel: int, expected: int) -> None:
    with torch.device("meta"):
        network = MODELS[name].build(1, 3, (64, 64, 64), ISOTROPIC, kernel_size=kernel)
    assert sum(weight.numel() for weight in network.parameters()) == expected


@pytest.mark.parametrize("kernel", [4, 9, 3.0, "3", True, None, [3, 3, 3]])
def test_an_unsupported_kernel_size_is_refused(kernel: object) -> None:
    with refuses("kernel-size-unsupported", ConfigError, found=kernel, expected=(3, 5, 7)):
        MODELS["mednext-small"].build(1, 3, (64, 64, 64), ISOTROPIC, kernel_size=kernel)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_an_upsampling_block_doubles_the_size_and_fills_every_plane(kernel: int) -> None:
    up = UpBlock(4, 2, kernel)
    features = up(torch.randn(1, 4, 3, 2, 5))
    assert features.shape == (1, 2, 6, 4, 10)
    assert all(plane.any() for axis in (2, 3, 4) for plane in features.unbind(axis))


def test_coarser_heads_cost_nothing_in_evaluation() -> None:
    network = MODELS["mednext-small"].build(1, 3, (32, 16, 16), ISOTROPIC).eval()
    computed: list[int] = []
    for head in (network.out_0, *network.out_blocks):
        head.register_forward_hook(lambda module, inputs, logits: computed.append(logits.shape[2]))
    with torch.no_grad():
        network(torch.zeros(1, 1, 32, 16, 16))
    assert computed == [32]
