"""Files of weights: plain state dicts, written whole and read without running what is in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.errors import ConfigError
from mist_ops.files import atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 3
_REFERENCE_NAMES = {"unet.encoder_layers.": "downsamples.", "unet.decoder_layers.": "upsamples.", "unet.": ""}
"""How names begin in weights of MIST, and how they begin here."""


def save_weights(path: Path, module: nn.Module) -> None:
    """Write the weights of a network atomically."""
    import torch

    with atomic(path) as temporary:
        torch.save(module.state_dict(), temporary)


def load_weights(path: Path, module: nn.Module) -> None:
    """Put the weights in a file into a network, all of them.

    Files of MIST's nnU-Nets fit too: those networks are the same and differ in the names of their parts.

    Raises:
        ConfigError: The file is missing, holds more than tensors, or belongs to another network.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There are no weights {path}. Train the fold first.") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise ConfigError(f"{path} is not a file of weights, or is damaged. Train the fold again.") from error
    if not (isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise ConfigError(f"{path} holds something else than the weights of a network, such as a whole checkpoint.")
    weights = {_our_name(name): tensor for name, tensor in found.items()}
    _check_fit(path, weights, module.state_dict())
    module.load_state_dict(weights)


def _our_name(name: str) -> str:
    name = name.removeprefix("module.")
    for theirs, ours in _REFERENCE_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _check_fit(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    wrong = [name for name in {**wanted, **found} if name not in found or name not in wanted]
    wrong += [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    if wrong:
        names = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        raise ConfigError(
            f"{path} belongs to another network: {names} missing, left over or of another shape. "
            "Use the architecture, channels, patch size and spacing that it was trained with."
        )
