"""The mean of the weights of several networks of one kind (Izmailov et al., UAI 2018; Wortsman et al., ICML 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.errors import ConfigError
from mist_ops.models.weights import read_weights, write_tensors

if TYPE_CHECKING:
    from torch import Tensor


def average_weights(files: Sequence[Path], output: Path, *, overwrite: bool = False) -> None:
    """Write the element-wise mean of the weights in some files, in the precision of the first.

    Whole numbers, such as the index tables of Swin, are no weights: they must be equal everywhere, and stay. One file
    after another is read, so that two are in memory.

    Args:
        files: Two or more.
        output: File to write, atomically; its folder is made.
        overwrite: Whether to replace it.

    Raises:
        ConfigError: Fewer than two files, one of them twice, an output that is there already or one of them, or a file
            that is missing or damaged, that differs in names or shapes, or that holds a value that is not finite.
    """
    _check_paths(files, output, overwrite)
    first = _checked(files[0])
    total = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in first.items()}
    for path in files[1:]:
        weights = _checked(path)
        _compare(files[0], first, path, weights)
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                total[name] += tensor
    averaged = {
        name: (total[name] / len(files)).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(output, averaged)


def _check_paths(files: Sequence[Path], output: Path, overwrite: bool) -> None:
    if len(files) < 2:
        raise ConfigError(f"An average takes two files of weights or more, found {len(files)}.")
    twice = [path for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice. Give each file once.")
    if output.resolve() in [path.resolve() for path in files]:
        raise ConfigError(f"{output} is one of the files themselves, and would be lost. Give another --output.")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder. Give the name of a file as --output.")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists already. Give --overwrite to replace it, or another --output.")


def _checked(path: Path) -> Mapping[str, Tensor]:
    weights = read_weights(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ConfigError(f"{path}: '{name}' holds values that are not finite. Leave this file out.")
    return weights


def _compare(first: Path, wanted: Mapping[str, Tensor], path: Path, found: Mapping[str, Tensor]) -> None:
    only = sorted(wanted.keys() ^ found.keys())
    if only:
        owner = path if only[0] in found else first
        raise ConfigError(
            f"{path} belongs to another network than {first}: '{only[0]}' is in {owner} alone"
            f"{f', and {len(only) - 1} more differ' if len(only) > 1 else ''}. Average weights of one network."
        )
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} and not {tuple(tensor.shape)}"
            raise ConfigError(f"{path}: '{name}' has the shape {shapes} as in {first}. Average weights of one network.")
        if not tensor.is_floating_point() and not tensor.equal(found[name]):
            raise ConfigError(f"{path}: the whole numbers '{name}' differ from those in {first}, and have no mean.")
