"""Settings of the optimizers, and convergence on a simple loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mist_ops.registry import OPTIMIZERS

ADAM = {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-8, "betas": (0.9, 0.999)}
SGD = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize("name, settings", [("adam", ADAM), ("adamw", ADAM), ("sgd", SGD)])
def test_an_optimizer_has_the_settings_of_the_reference(name: str, settings: dict[str, Any]) -> None:
    group = OPTIMIZERS[name]([torch.nn.Parameter(torch.ones(2))], 0.01, 0.1).param_groups[0]
    assert {key: group[key] for key in settings} == settings


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_an_optimizer_lowers_the_loss(name: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS[name]([parameter], 0.1, 0.0)
    for _ in range(30):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    assert parameter.square().sum().item() < 0.5


def test_the_three_optimizers_are_registered() -> None:
    assert set(OPTIMIZERS) >= {"adam", "adamw", "sgd"}
