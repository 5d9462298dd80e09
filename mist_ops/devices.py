"""Devices: selection, compilation, mixed precision, out-of-memory errors and seeds."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._functorch import config as partitioner  # the memory budget has no public name

from mist_ops.errors import ConfigError, MachineError, counted

_LOG = logging.getLogger(__name__)
_NO_MEMORY = "can't allocate memory"
"""Part of torch's message on a CPU."""

_ACTIVATION_BUDGET = 0.8
"""Share of the activations that compiled code keeps for the backward pass; it recomputes what is cheap. For nnunet with
two patches of 128 voxels cubed, 2.4 GiB instead of 4.0: without the outputs of norms and activation functions."""

Function = TypeVar("Function", bound=Callable[..., Any])


def resolve_device(name: str | None = None, work: str = "running") -> torch.device:
    """Return the device of a name; it never falls back to the CPU without a warning.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or the number of a GPU such as ``"1"``. ``None`` selects the first
            GPU, or the CPU if there is none.
        work: What it is for, in the warning that there is no GPU.

    Raises:
        ConfigError: The name is unknown, or the GPU does not exist.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        _LOG.warning("No GPU found; %s on the CPU.", work)
        return torch.device("cpu")
    kind, _, index = (f"cuda:{name}" if name.isdecimal() else name).partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise ConfigError(
            f"Unknown device '{name}'. Use cpu, cuda or the number of a GPU.",
            code="unknown-device",
            found=name,
            expected=["cpu", "cuda"],
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= gpus:
        usable = f"{counted(gpus, 'usable GPU')}, numbered from 0" if gpus else "no usable GPU"
        raise ConfigError(
            f"Device '{name}' does not exist: this machine has {usable}. Use cpu, or omit the device.",
            code="device-missing",
            found=name,
            expected=gpus,
        )
    return torch.device(kind, int(index or 0))


def resolve_devices(
    device: str | Sequence[str] | None, processes: int | None = None, gpus: int | None = None
) -> list[torch.device]:
    """Return the devices of a training run, one per process.

    Args:
        device: A name as in ``resolve_device``, or several. ``None`` and ``"cuda"`` mean all visible GPUs.
        processes: Number of processes; the CPU may be listed more than once.
        gpus: Preferred number of GPUs, if the name does not determine it; fewer are used if there are not as many.

    Raises:
        ConfigError: A device does not exist, or their number differs from ``processes``.
    """
    if device is not None and not isinstance(device, str):
        found = [resolve_device(name) for name in device]
    elif (resolved := resolve_device(device, "training")).type == "cpu":
        return [resolved] * (processes or 1)
    elif device in (None, "cuda"):
        visible = torch.cuda.device_count()
        found = [torch.device("cuda", index) for index in range(min(processes or gpus or visible, visible))]
    else:
        found = [resolve_device(device)]
    if processes not in (None, len(found)):
        raise ConfigError(
            f"{counted(processes or 0, 'process', 'processes')} cannot run on {counted(len(found), 'device')}. Use one "
            "per device, or omit their number.",
            code="devices-mismatch",
            found=len(found),
            expected=processes,
        )
    return found


def describe(device: torch.device) -> str:
    """A device in words, such as "cuda:0 (NVIDIA H100 80GB HBM3, 78.7 of 79.2 GiB free)"."""
    if device.type != "cuda":
        return f"the CPU ({counted(torch.get_num_threads(), 'thread')})"
    free, total = torch.cuda.mem_get_info(device)
    return f"{device} ({torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use only deterministic algorithms while the block runs, if wanted; see ``tune``.

    Raises:
        ConfigError: An operation has none on this device.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        operation = str(error).splitlines()[0].partition(" ")[0]
        raise ConfigError(
            f"training.deterministic: {operation} has no deterministic algorithm on this device. Omit --deterministic, "
            "or choose another loss or network.",
            code="not-deterministic",
            found=operation,
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def tune(device: torch.device) -> None:
    """Enable fast convolutions on a device. On a GPU, results then differ in the last bits between runs.

    Deterministic algorithms are kept where they are enabled.
    """
    if device.type == "cuda":
        # All patches have the same size, so searching for the fastest algorithm pays off.
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        torch.set_float32_matmul_precision("high")


def compiled(
    function: Function, network: nn.Module, arguments: Sequence[object], *, bf16: bool
) -> tuple[Function, str | None]:
    """Compile a function of a network in training, and run it forward and backward once, as compilation is lazy.

    Args:
        function: Returns one or several tensors that depend on the weights of the network.
        network: Its gradients are cleared, and its buffers restored.
        arguments: Like those of the training, the first a tensor on the device.
        bf16: Whether it runs in mixed precision.

    Returns:
        The compiled function, and None; or if that fails, the function itself and the reason.
    """
    (image, *_), reason = arguments, None
    assert isinstance(image, Tensor)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    made: Function = torch.compile(function, dynamic=False)  # type: ignore[assignment]
    try:
        with partitioner.patch(activation_memory_budget=_ACTIVATION_BUDGET):
            with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=bf16):
                outputs = made(*arguments)
            means = [output.float().mean() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]
            torch.stack(means).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # each backend raises its own: for a missing compiler, for an unsupported operation
        # The first line of torch's message names the backend, the second what went wrong there.
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])
        _LOG.warning("Training cannot be compiled and runs uncompiled: %s", reason)
        made = function
    network.zero_grad(set_to_none=True)
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    return made, reason


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    """BF16 autocast if it is enabled and faster than FP32 on the hardware, else a context without effect."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if enabled and prefers_bf16(device) else nullcontext()


def prefers_bf16(device: torch.device) -> bool:
    """Whether a device computes faster in BF16 than in FP32: a GPU that supports it, or a CPU with AMX.

    BF16 has the range of FP32, so the loss needs no scaling. AVX-512 has BF16 instructions, too, but without AMX a
    step takes longer with them: nnunet-pocket on patches of 32 voxels cubed 0.78 s of CPU instead of 0.62, nnunet 1.16
    instead of 0.93, wnet 1.84 instead of 1.42, on an Intel Xeon of the fifth generation.
    """
    return computes_bf16(device) and (device.type == "cuda" or has_amx())


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in BF16 without emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has("avx512_bf16") or has_amx()


def has_amx() -> bool:
    """Whether the CPU has matrix instructions for BF16."""
    return _cpu_has("amx_bf16")


def _cpu_has(instructions: str) -> bool:
    # Older versions of torch cannot query the CPU; FP32 is always correct.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(instructions))


@contextmanager
def catch_out_of_memory(needed_for: str | Callable[[], str], advice: str) -> Iterator[None]:
    """Replace the out-of-memory errors of torch and NumPy by one with advice.

    Args:
        needed_for: What the memory is needed for; called only if it runs out.
        advice: What to do, as a sentence.

    Raises:
        MachineError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY in str(error):
            what = needed_for if isinstance(needed_for, str) else needed_for()
            raise MachineError(
                f"Not enough memory for {what}. {advice}", everywhere=False, code="out-of-memory"
            ) from error
        raise


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, NumPy and torch, which initialize the weights."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
