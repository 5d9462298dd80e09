"""Network architectures built on MONAI: a package per family.

The ``__init__`` of a family holds its table of variants and registers them without importing torch, so that names and
patch-size rules cost nothing to look up. Its ``network`` module holds the layers; ``build`` imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mist_ops.errors import ConfigError
from mist_ops.types import Size, Spacing

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["bf16", "fp32"]
MemoryFormat = Literal["channels_first", "channels_last"]


@dataclass(frozen=True)
class Architecture:
    """An entry of ``MODELS``.

    Attributes:
        build: ``build(in_channels, out_channels, patch_size, target_spacing, **params)`` returns the network. In
            training mode it returns a list of logits, finest first, each at its own resolution; in evaluation mode only
            the finest. Never a softmax.
        check_patch_size: Raises ``ConfigError`` for a patch size that the network does not support, and lists the
            nearest ones that it does.
        fit_patch_size: Largest supported patch size no larger than the one given, or the smallest supported one.
        encoder: Prefixes of the names of the weights that transfer learning loads.
        topology: The part of the network that depends on patch size and spacing, comparable with ``==``; None if
            nothing does. Weights load into any network of the same architecture and topology.
        on_amx: Precision and memory format in which a training step is fastest on a CPU with AMX. On other CPUs it is
            FP32 with the channels first.
    """

    build: Callable[..., nn.Module]
    check_patch_size: Callable[[Size, Spacing], None]
    fit_patch_size: Callable[[Size, Spacing], Size]
    encoder: tuple[str, ...] = ()
    topology: Callable[[Size, Spacing], object] | None = None
    on_amx: tuple[Precision, MemoryFormat] = ("bf16", "channels_first")


def refuse_unknown_params(architecture: str, unknown: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` if there are entries of ``model.params`` that an architecture does not take."""
    if unknown:
        names = ", ".join(f"'{name}'" for name in unknown)
        raise ConfigError(
            f"model.params: {architecture} has no parameter {names}. Remove it.",
            code="unknown-parameter",
            field="model.params",
            found=sorted(unknown),
        )


def unsupported_patch_size(patch_size: Size, reason: str, supported: Iterable[Size]) -> ConfigError:
    """The error for a patch size that a network does not support.

    Args:
        patch_size: In voxels.
        reason: Completes a sentence that begins with the patch size.
        supported: The nearest sizes that the network does support.
    """
    nearest = list(dict.fromkeys(supported))
    return ConfigError(
        f"Patch size {size_text(patch_size)} {reason}. Use {' or '.join(map(size_text, nearest))}.",
        code="patch-size-unsupported",
        field="patch_size",
        found=patch_size,
        expected=nearest,
    )


def size_text(size: Sequence[int]) -> str:
    """Format a size or a shape as ``64x64x32``."""
    return "x".join(map(str, size))
