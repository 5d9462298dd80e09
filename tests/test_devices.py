"""Tests of devices; those that need a GPU are skipped without one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from expect import refuses
from torch._inductor import config as inductor

from mist_ops.devices import (
    autocast,
    catch_out_of_memory,
    compiled,
    deterministic,
    resolve_device,
    resolve_devices,
    seed_everything,
)
from mist_ops.errors import ConfigError, MachineError

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_the_cpu_always_exists() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@without_gpu
def test_without_a_gpu_the_default_is_the_cpu_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_devices(None) == [torch.device("cpu")]
    assert caplog.messages == ["No GPU found; training on the CPU."]


@without_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "0", "1"])
def test_a_missing_gpu_is_refused(name: str) -> None:
    with refuses("device-missing", ConfigError, found=name, expected=0):
        resolve_device(name)


@with_gpu
@pytest.mark.parametrize("name", [None, "cuda", "cuda:0", "0"])
def test_every_name_of_the_first_gpu_is_accepted(name: str | None) -> None:
    assert resolve_device(name) == torch.device("cuda", 0)


@with_gpu
def test_a_gpu_beyond_the_last_is_refused() -> None:
    with refuses("device-missing", ConfigError, names="numbered from 0", found="99"):
        resolve_device("99")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:1", "-1", "", "mps"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with refuses("unknown-device", ConfigError, found=name):
        resolve_device(name)


def test_without_autocast_everything_is_computed_in_fp32() -> None:
    ones = torch.ones(2, 2)
    with autocast(torch.device("cpu"), enabled=False):
        assert (ones @ ones).dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=with_gpu)])
def test_autocast_uses_bf16_or_nothing(device: str) -> None:
    ones = torch.ones(2, 2, device=device)
    with autocast(torch.device(device), enabled=True):
        assert (ones @ ones).dtype in (torch.bfloat16, torch.float32)


def test_a_seed_repeats_every_global_generator() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything(7)
        return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()


@pytest.mark.parametrize(
    "device, processes, found", [("cpu", None, 1), ("cpu", 3, 3), (["cpu", "cpu"], None, 2), (["cpu"], 1, 1)]
)
def test_a_cpu_runs_any_number_of_processes(device: str | list[str], processes: int | None, found: int) -> None:
    assert resolve_devices(device, processes) == [torch.device("cpu")] * found


@without_gpu
def test_a_preferred_number_of_gpus_is_ignored_without_gpus() -> None:
    assert resolve_devices(None, gpus=8) == [torch.device("cpu")]


@with_gpu
def test_at_most_all_gpus_are_used() -> None:
    available = torch.cuda.device_count()
    assert len(resolve_devices(None, gpus=available + 1)) == available
    with refuses("devices-mismatch", ConfigError, found=available, expected=available + 1):
        resolve_devices(None, available + 1)


def test_different_numbers_of_devices_and_processes_are_refused() -> None:
    with refuses("devices-mismatch", ConfigError, found=2, expected=3):
        resolve_devices(["cpu", "cpu"], 3)


class Heads(torch.nn.Module):
    """A network with two heads and a batch norm that counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.BatchNorm3d(2))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = self.layers(image)
        return [features, features[:, :, ::2]]


IMAGE = torch.arange(64.0).reshape(1, 1, 4, 4, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Warnings of the compiler differ between versions.
def test_a_compiled_network_computes_the_same_with_the_same_weights() -> None:
    plain = Heads().train()
    made, reason = compiled(plain, plain, [torch.zeros_like(IMAGE)], bf16=False)
    assert (made is plain, reason) == (False, None)
    assert plain.layers[1].num_batches_tracked == 0
    assert all(weight.grad is None for weight in plain.parameters())
    for one, other in zip(made(IMAGE), plain(IMAGE), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_compiled_runs_uncompiled(caplog: pytest.LogCaptureFixture) -> None:
    torch.compiler.reset()
    plain = Heads().train()
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        made, reason = compiled(plain, plain, [IMAGE], bf16=False)
    assert made is plain
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "mist_ops.devices"]
    assert reason is not None
    assert reason in warning
    assert len(warning.splitlines()) == 1
    assert plain.layers[1].num_batches_tracked == 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=with_gpu)])
def test_out_of_memory_errors_get_advice(device: str) -> None:
    with (
        refuses("out-of-memory", MachineError, names="a whale. Take less."),
        catch_out_of_memory("a whale", "Take less."),
    ):
        torch.empty(2**48, device=device)
    with pytest.raises(RuntimeError, match="shape"), catch_out_of_memory("a whale", "Take less."):
        torch.empty(2, device=device).reshape(3)


def test_deterministic_algorithms_are_used_in_the_block_only() -> None:
    for wanted in (False, True):
        with deterministic(wanted):
            assert torch.are_deterministic_algorithms_enabled() == wanted
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_algorithm_is_refused() -> None:
    with refuses("not-deterministic", ConfigError, found="put_"), deterministic(True):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()
