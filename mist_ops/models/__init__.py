"""Networks: one module per family, built on MONAI.

A module registers its architectures without importing torch, so that names and patch rules cost nothing to look up;
``build`` imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mist_ops.errors import ConfigError
from mist_ops.types import Size, Spacing

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """An entry of ``MODELS``.

    Attributes:
        build: ``build(in_channels, out_channels, patch_size, target_spacing, **params)`` makes the network. In training
            mode it returns a list of logits, finest first, each at its own resolution; in evaluation mode the
            finest alone. Never a softmax.
        check_patch_size: Raises ``ConfigError`` for a patch that the network cannot take, naming sizes that it can.
        fit_patch_size: The largest legal patch that is no larger than the one given, or the smallest legal one.
        encoder: How the names of the weights begin that transfer learning takes over.
        topology: What the patch and the spacing decide of the network, to be compared with ``==``; None where that is
            nothing. Weights go from one network to another of the same architecture and topology.
    """

    build: Callable[..., nn.Module]
    check_patch_size: Callable[[Size, Spacing], None]
    fit_patch_size: Callable[[Size, Spacing], Size]
    encoder: tuple[str, ...] = ()
    topology: Callable[[Size, Spacing], object] | None = None


def refuse_unknown_params(architecture: str, unknown: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` that names the entries of ``model.params`` that an architecture has no use for."""
    if unknown:
        raise ConfigError(
            f"model.params has {', '.join(map(repr, unknown))}, which {architecture} does not know. Remove it."
        )
