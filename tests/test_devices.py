"""Names of devices. What depends on a GPU is skipped where there is none."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mist_ops.devices import autocast, resolve_device, seed_everything
from mist_ops.errors import ConfigError

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@without_gpu
def test_no_name_means_the_cpu_where_there_is_no_gpu() -> None:
    assert resolve_device(None) == torch.device("cpu")


@without_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "0", "1"])
def test_a_gpu_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Device '{name}' was asked for, but this machine has no usable GPU"):
        resolve_device(name)


@with_gpu
@pytest.mark.parametrize("name", [None, "cuda", "cuda:0", "0"])
def test_every_name_of_the_first_gpu_means_it(name: str | None) -> None:
    assert resolve_device(name) == torch.device("cuda", 0)


@with_gpu
def test_a_gpu_beyond_the_last_is_refused() -> None:
    with pytest.raises(ConfigError, match="numbered from 0"):
        resolve_device("99")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:1", "-1", "", "mps"])
def test_a_name_that_means_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no device"):
        resolve_device(name)


def test_without_the_wish_nothing_is_computed_in_half_precision() -> None:
    ones = torch.ones(2, 2)
    with autocast(torch.device("cpu"), wanted=False):
        assert (ones @ ones).dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=with_gpu)])
def test_half_precision_comes_in_bf16_or_not_at_all(device: str) -> None:
    ones = torch.ones(2, 2, device=device)
    with autocast(torch.device(device), wanted=True):
        assert (ones @ ones).dtype in (torch.bfloat16, torch.float32)


def test_a_seed_repeats_every_global_generator() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything(7)
        return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()
