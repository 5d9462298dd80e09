"""Names of devices. What depends on a GPU is skipped where there is none."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mist_ops.devices import autocast, compiled, memory_told, resolve_device, resolve_devices, seed_everything
from mist_ops.errors import ConfigError, MachineError

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


@pytest.mark.parametrize(
    "device, processes, found", [("cpu", None, 1), ("cpu", 3, 3), (["cpu", "cpu"], None, 2), (["cpu"], 1, 1)]
)
def test_a_cpu_takes_as_many_processes_as_are_asked_for(
    device: str | list[str], processes: int | None, found: int
) -> None:
    assert resolve_devices(device, processes) == [torch.device("cpu")] * found


@without_gpu
def test_a_wish_for_gpus_means_nothing_where_there_is_none() -> None:
    assert resolve_devices(None, gpus=8) == [torch.device("cpu")]


@with_gpu
def test_no_more_gpus_are_taken_than_there_are() -> None:
    there = torch.cuda.device_count()
    assert len(resolve_devices(None, gpus=there + 1)) == there
    with pytest.raises(ConfigError, match=f"{there + 1} processes were asked for"):
        resolve_devices(None, there + 1)


def test_other_numbers_of_devices_and_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes were asked for, but 2 devices were named or found"):
        resolve_devices(["cpu", "cpu"], 3)


class Heads(torch.nn.Module):
    """A network of two heads, with a batch norm that counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.BatchNorm3d(2))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = self.layers(image)
        return [features, features[:, :, ::2]]


IMAGE = torch.arange(64.0).reshape(1, 1, 4, 4, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # The compiler's own, which differ from version to version.
def test_a_compiled_network_computes_the_same_with_the_same_weights() -> None:
    plain = Heads().train()
    made = compiled(plain, torch.zeros_like(IMAGE), amp=False)
    assert made is not plain
    assert plain.layers[1].num_batches_tracked == 0
    assert all(weight.grad is None for weight in plain.parameters())
    for one, other in zip(made(IMAGE), plain(IMAGE), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_compiled_runs_as_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    plain = Heads().train()
    assert compiled(plain, IMAGE, amp=False) is plain
    said = [record.getMessage() for record in caplog.records if record.name == "mist_ops.devices"]
    assert len(said) == 1
    assert said[0].startswith("The network could not be compiled and runs as it is: ")
    assert len(said[0].splitlines()) == 1
    assert plain.layers[1].num_batches_tracked == 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=with_gpu)])
def test_memory_that_runs_out_is_told_in_a_sentence(device: str) -> None:
    told = pytest.raises(MachineError, match=r"The memory does not suffice for a whale\. Take less\.")
    with told, memory_told("a whale", "Take less."):
        torch.empty(2**48, device=device)
    with pytest.raises(RuntimeError, match="shape"), memory_told("a whale", "Take less."):
        torch.empty(2, device=device).reshape(3)
