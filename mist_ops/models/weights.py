"""Files of weights: plain state dicts, written whole and read without running what is in them."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mist_ops.errors import ConfigError, few
from mist_ops.files import atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOG = logging.getLogger(__name__)
_SHOWN = 3
_REFERENCE_NAMES = {
    "unet.encoder_layers.": "downsamples.",
    "unet.decoder_layers.": "upsamples.",
    "unet.": "",
    "model.": "",  # swinunetr
}
"""How names begin in weights of MIST, and how they begin here."""


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically; equal values give equal bytes."""
    import torch

    with atomic(path) as temporary, temporary.open("wb") as stream:
        # To a stream: given a path, torch puts the temporary name into the file.
        torch.save(dict(value), stream)


def read_tensors(path: Path) -> Any:
    """Read a file of tensors and plain values, running nothing that is in it.

    Raises:
        ConfigError: The file is missing, damaged, or holds more than that.
    """
    import torch

    _tell_of_holes(str(torch.__version__))
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no {path}. Train the fold first.") from error
    except Exception as error:  # What the restricted unpickler makes of damage is not declared: IndexError, KeyError, …
        raise ConfigError(f"{path} is damaged, or no file of weights. Train the fold again.") from error


def _check_sums(path: Path) -> None:
    """Raise for a file of which a byte changed: torch reads it without a look at the sums in it."""
    if zipfile.is_zipfile(path):  # files of old versions of torch are none
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile


@cache
def _tell_of_holes(version: str) -> None:
    from torch.torch_version import TorchVersion

    if TorchVersion(version) < "2.10":
        _LOG.warning(
            "PyTorch %s can be made to run what is in a file of weights. Use 2.10 or later, or read none but your own.",
            version,
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network, under our names for its parts.

    Raises:
        ConfigError: The file is missing, damaged, or holds something else, such as a whole checkpoint.
    """
    import torch

    found = read_tensors(path)
    if not (isinstance(found, dict) and found and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise ConfigError(
            f"{path} holds something else than the weights of a network, such as a whole checkpoint. "
            "Name a file such as models/fold_0.pt."
        )
    return {_our_name(name): tensor for name, tensor in found.items()}


def load_weights(path: Path, module: nn.Module) -> None:
    """Put the weights in a file into a network, all of them.

    Files of MIST fit too: its networks are the same, and some differ in the names of their parts.

    Raises:
        ConfigError: The file is missing, holds more than tensors, or belongs to another network.
    """
    weights = read_weights(path)
    check_fit(path, weights, module.state_dict())
    module.load_state_dict(weights)


def _our_name(name: str) -> str:
    name = name.removeprefix("module.")
    for theirs, ours in _REFERENCE_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def check_fit(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights that belong to another network, or that give no number for any image.

    Args:
        path: Where they were found.
        found: By name.
        wanted: Those of the network.

    Raises:
        ConfigError: Weights are missing, left over, of another shape or not finite.
    """
    wrong = [name for name in {**wanted, **found} if name not in found or name not in wanted]
    wrong += [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    if wrong:
        raise ConfigError(
            f"{path} belongs to another network: {few(wrong, _SHOWN)} missing, left over or of another shape. "
            "Use the architecture, channels, patch size and spacing that it was trained with."
        )
    broken = [name for name, tensor in found.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ConfigError(f"{path} holds weights that are not finite ({broken[0]}). Train the fold again.")
