"""Weights files: plain state dicts, written atomically and read without executing code."""

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
"""Prefixes of names in MIST's weights, and those that replace them here."""


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically; equal values give equal bytes."""
    import torch

    with atomic(path) as temporary, temporary.open("wb") as stream:
        # To a stream: given a path, torch stores the temporary name in the file.
        torch.save(dict(value), stream)


def read_tensors(path: Path) -> Any:
    """Read tensors and plain values without executing code from the file.

    Raises:
        ConfigError: The file is missing, corrupted, or holds other objects.
    """
    import torch

    _warn_if_unsafe(str(torch.__version__))
    try:
        _check_crc(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist. Check the path, or train the fold.", code="weights-missing", file=path
        ) from error
    except Exception as error:  # The restricted unpickler raises IndexError, KeyError and others for a corrupted file.
        raise ConfigError(
            f"{path} is corrupted or not a weights file. Restore it, or train the fold again.",
            code="weights-unreadable",
            file=path,
        ) from error


def _check_crc(path: Path) -> None:
    """Raise if a byte of the file changed, since torch ignores the checksums of the archive."""
    if zipfile.is_zipfile(path):  # old versions of torch write no archive
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile


@cache
def _warn_if_unsafe(version: str) -> None:
    from torch.torch_version import TorchVersion

    if TorchVersion(version) < "2.10":
        _LOG.warning(
            "PyTorch %s may execute code from a weights file. Use 2.10 or later, or read only files that you trust.",
            version,
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network; names of MIST are converted to ours.

    Raises:
        ConfigError: The file is missing, corrupted, or holds something else, such as a whole checkpoint.
    """
    import torch

    found = read_tensors(path)
    if not (isinstance(found, dict) and found and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise ConfigError(
            f"{path} does not hold the weights of a network; it may be a whole checkpoint. "
            "Use a file such as models/fold_0.pt.",
            code="weights-invalid",
            file=path,
        )
    return {_our_name(name): tensor for name, tensor in found.items()}


def load_weights(path: Path, module: nn.Module) -> None:
    """Load all weights of a file into a network. Files of MIST load too.

    Raises:
        ConfigError: The file is missing, corrupted, or does not match the network.
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


def check_fit(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not match a network or are not finite.

    Args:
        path: File of the weights.
        found: The weights by name.
        expected: Those of the network.

    Raises:
        ConfigError: Weights are missing, unexpected, of another shape or not finite.
    """
    wrong = [name for name in {**expected, **found} if name not in found or name not in expected]
    wrong += [name for name in expected if name in found and found[name].shape != expected[name].shape]
    if wrong:
        raise ConfigError(
            f"{path} does not match the network: missing, unexpected or of another shape: {few(wrong, _SHOWN)}. "
            "Use the architecture, channels, patch size and spacing that it was trained with.",
            code="weights-mismatch",
            file=path,
            found=wrong,
        )
    check_finite(path, found)


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ConfigError: Some are.
    """
    broken = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ConfigError(
            f"{path} holds NaN or infinite weights ({few(broken, _SHOWN)}). Retrain the fold, or exclude this file.",
            code="weights-not-finite",
            file=path,
            found=broken,
        )
