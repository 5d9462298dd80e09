"""The accelerator: which one is used, how fast it may compute, and the global seeds."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from mist_ops.errors import ConfigError, MachineError

_LOG = logging.getLogger(__name__)
_NO_MEMORY = "can't allocate memory"
"""What torch says on a CPU."""


def resolve_device(name: str | None = None) -> torch.device:
    """The device that a name means.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or the number of a GPU such as ``"1"``. ``None`` takes the first GPU
            if there is one, and the CPU otherwise.

    Raises:
        ConfigError: The name means no device, or a GPU that is not there. It never falls back to the CPU in silence.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = (f"cuda:{name}" if name.isdecimal() else name).partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise ConfigError(f"There is no device '{name}'. Use 'cpu', 'cuda', or the number of a GPU.")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= gpus:
        raise ConfigError(
            f"Device '{name}' was asked for, but this machine has {gpus or 'no'} usable GPU{'s' * (gpus > 1)}"
            f"{' (numbered from 0)' * bool(gpus)}. Use 'cpu', or leave the device out to take what there is."
        )
    return torch.device(kind, int(index or 0))


def resolve_devices(
    device: str | Sequence[str] | None, processes: int | None = None, gpus: int | None = None
) -> list[torch.device]:
    """The devices that one training runs on, a process on each.

    Args:
        device: A name as in ``resolve_device``, or several. ``None`` and ``"cuda"`` mean all GPUs that are visible.
        processes: How many; the CPU may be named more than once.
        gpus: How many GPUs are wished for where the name leaves it open and there are as many.

    Raises:
        ConfigError: There is no such device, or there are too few.
    """
    if device is not None and not isinstance(device, str):
        found = [resolve_device(name) for name in device]
    elif resolve_device(device).type == "cpu":
        return [resolve_device(device)] * (processes or 1)
    elif device in (None, "cuda"):
        visible = torch.cuda.device_count()
        found = [torch.device("cuda", index) for index in range(min(processes or gpus or visible, visible))]
    else:
        found = [resolve_device(device)]
    if processes not in (None, len(found)):
        raise ConfigError(
            f"{processes} processes were asked for, but {len(found)} device{'s were' if len(found) > 1 else ' was'} "
            "named or found. Each process needs one of its own: leave the number out, or name as many devices."
        )
    return found


def tune(device: torch.device) -> None:
    """Let convolutions be as fast as they can on a device; what that costs is bit-for-bit repetition on a GPU."""
    if device.type == "cuda":
        # Patches are all of one size, so that the fastest convolution for it is worth looking for.
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def compiled(model: nn.Module, patches: Tensor, *, amp: bool) -> nn.Module:
    """The model compiled for training on patches like these, or itself where compiling fails; then the log says why.

    Both share their weights. Compiling is lazy, so it is tried here, forwards and backwards; gradients are cleared.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    made: nn.Module = torch.compile(model)  # type: ignore[assignment]
    try:
        with autocast(patches.device, amp):
            outputs = made(patches)
        sum(output.float().mean() for output in outputs).backward()
    except (
        Exception
    ) as error:  # Each back end has exceptions of its own: a missing compiler, an operation unknown to it.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _LOG.warning("The network could not be compiled and runs as it is: %s", reason)
        made = model
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return made


def autocast(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """A context that computes in BF16 if that is wanted and the device does it in hardware; otherwise it does nothing.

    BF16 has the range of FP32, so the loss needs no scaling. On a CPU with AVX-512 BF16 a training step of
    nnunet-pocket took 0.43 s instead of 0.68 s; without such instructions it would be emulated, and slow.
    """
    if wanted and _computes_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Older torch cannot say what the CPU has; FP32 is right there too.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def memory_told(needed_for: str, advice: str) -> Iterator[None]:
    """Say in a sentence that memory ran out, of which torch and NumPy say how many bytes they wanted.

    Args:
        needed_for: What it does not suffice for.
        advice: What to do, as a sentence.

    Raises:
        MachineError: It ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY in str(error):
            raise MachineError(f"The memory does not suffice for {needed_for}. {advice}", everywhere=False) from error
        raise


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch on every device, from which weights are initialized."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
