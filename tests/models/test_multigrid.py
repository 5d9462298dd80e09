from __future__ import annotations

import pytest
import torch

from mist_ops.models.multigrid import full_multigrid, w_cycles
from mist_ops.models.multigrid.network import skip_copies
from mist_ops.registry import MODELS

ISOTROPIC = (1.0, 1.0, 1.0)


def test_each_full_multigrid_spike_is_one_level_higher() -> None:
    assert full_multigrid(4) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "bottleneck, heights",
    [(1, [1]), (2, [1, 2, 1]), (3, [1, 2, 1, 3, 1, 2, 1]), (4, [1, 2, 1, 3, 1, 4, 1, 3, 1, 2, 1])],
)
def test_w_cycles_rise_and_fall_with_a_spike_of_height_1_between(bottleneck: int, heights: list[int]) -> None:
    assert w_cycles(bottleneck) == heights


def test_a_block_takes_its_level_twice_where_the_last_spike_peaked() -> None:
    assert skip_copies([1, 2, 3], 3) == [[1], [2, 1], [1, 2, 1], [1, 1, 2]]
    assert skip_copies([1, 1, 2], 3) == [[1], [2], [2, 1], [1, 2, 1]]


@pytest.mark.parametrize("name, blocks, weights", [("fmgnet", 3, 86_016), ("wnet", 7, 200_704)])
def test_second_copies_cost_the_documented_number_of_weights(name: str, blocks: int, weights: int) -> None:
    network = MODELS[name].build(1, 3, (32, 32, 32), ISOTROPIC)
    inputs = [(key, tensor.shape[1]) for key, tensor in network.state_dict().items() if key.endswith("conv.weight")]
    doubled = [key for key, channels in inputs if channels == 96 and "conv1" in key]
    state = network.state_dict()
    extra = [state[key.replace("conv1", part)][:, 64:].numel() for key in doubled for part in ("conv1", "conv3")]
    assert (len(doubled), sum(extra)) == (blocks, weights)


def test_a_slab_keeps_its_thickness() -> None:
    network = MODELS["wnet"].build(1, 2, (32, 32, 5), (1.0, 1.0, 5.0)).train()
    sizes = [tuple(logits.shape[2:]) for logits in network(torch.randn(1, 1, 32, 32, 5))]
    assert sizes == [(32, 32, 5), (16, 16, 5), (8, 8, 5)]
