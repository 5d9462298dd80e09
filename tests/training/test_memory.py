from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from training.small_study import small_config

from mist_ops.config import StudyConfig, override
from mist_ops.losses.objective import make_objective
from mist_ops.registry import MODELS, OPTIMIZERS
from mist_ops.training.memory import estimate_step
from mist_ops.training.step import example_batch

CPU = torch.device("cpu")
PATCH = (32, 32, 32)


def settings(architecture: str, **changes: object) -> StudyConfig:
    changed = {
        "spatial_config.patch_size": PATCH,
        "model.architecture": architecture,
        "model.params": {"in_channels": 1, "out_channels": 3},
    }
    return override(small_config(), {**changed, **{f"training.{name}": value for name, value in changes.items()}})


def network(config: StudyConfig) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[config.model.architecture].build(1, 3, PATCH, (1.0, 1.0, 1.0)).train()


def saved_by_torch(config: StudyConfig, model: nn.Module, bf16: bool) -> int:
    """Bytes that a real forward pass keeps for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}
    tensors = []

    def keep(tensor: Tensor) -> Tensor:
        block = tensor.untyped_storage()
        if block.data_ptr() not in weights:
            kept[block.data_ptr()] = block.nbytes()
            tensors.append(tensor)
        return tensor

    image, label, dtm = example_batch(config, CPU)
    objective = make_objective(config.training.loss.name, spacing=(1.0, 1.0, 1.0))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            outputs = model(image)
        objective(outputs, label, dtm)
    return sum(kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("architecture", ["nnunet-pocket", "nnunet", "mednext-small", "wnet", "fmgnet"])
def test_activations_are_estimated_within_a_hundredth_of_what_torch_keeps(architecture: str, bf16: bool) -> None:
    config = settings(architecture)
    model = network(config)
    needed = estimate_step(config, model, CPU, bf16=bf16)
    assert needed is not None
    assert needed.activations == pytest.approx(saved_by_torch(config, model, bf16), rel=0.01)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weights_gradients_and_optimizer_are_counted(optimizer: str) -> None:
    config = settings("nnunet-pocket", optimizer=optimizer)
    model = network(config)
    needed = estimate_step(config, model, CPU, bf16=False)
    weights = list(model.parameters())
    stepping = OPTIMIZERS[optimizer](weights, 1e-3, 0.0)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    stepping.step()
    state = [value for values in stepping.state.values() for value in values.values() if isinstance(value, Tensor)]
    assert needed is not None
    assert needed.weights == pytest.approx(sum(each.nbytes for each in [*weights, *weights, *state]), rel=1e-3)
    several = estimate_step(config, model, CPU, bf16=False, processes=2)
    assert several is not None
    assert several.weights - needed.weights == sum(weight.nbytes for weight in weights)


@pytest.mark.parametrize("architecture", ["nnunet-pocket", "fmgnet"])
def test_an_estimate_changes_neither_network_nor_random_numbers(architecture: str) -> None:
    config = settings(architecture)
    model = network(config)
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    estimate_step(config, model, CPU, bf16=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_larger_batches_and_patches_need_more_and_nothing_is_allocated() -> None:
    huge = override(settings("nnunet", batch_size_per_gpu=8), {"spatial_config.patch_size": (512, 512, 512)})
    model = network(settings("nnunet"))
    small, large = (estimate_step(config, model, CPU, bf16=False) for config in (settings("nnunet"), huge))
    assert small is not None
    assert large is not None
    assert large.activations > 1000 * small.activations > 2**30
    assert large.weights == small.weights


def test_a_network_whose_layers_depend_on_values_has_no_estimate() -> None:
    class Depends(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if float(image.sum()) > 0 else -image

    assert estimate_step(settings("nnunet"), Depends(), CPU, bf16=False) is None
