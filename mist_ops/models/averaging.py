"""Mean of the weights of several networks (Izmailov et al., UAI 2018; Wortsman et al., ICML 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.errors import ConfigError
from mist_ops.models import size_text
from mist_ops.models.weights import check_finite, read_weights, write_tensors

if TYPE_CHECKING:
    from torch import Tensor


def average_weights(files: Sequence[Path], output: Path, *, overwrite: bool = False) -> None:
    """Write the element-wise mean of weights files, in the precision of the first.

    Integer buffers, such as the index tables of Swin, must be equal in all files and are copied. Files are read one
    after another, so that at most two are in memory.

    Args:
        files: Two or more.
        output: File to write, atomically; its folder is created.
        overwrite: Whether to replace an existing file.

    Raises:
        ConfigError: Fewer than two files or one of them twice; an output that exists or is an input; or a file that is
            missing, corrupted or not finite, or whose names or shapes differ.
    """
    _check_paths(files, output, overwrite)
    first = _read(files[0])
    total = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in first.items()}
    for path in files[1:]:
        weights = _read(path)
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
        raise ConfigError(
            f"--weights needs at least two files; got {len(files)}.",
            code="too-few-inputs",
            field="--weights",
            found=len(files),
            expected=2,
        )
    twice = [path for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if twice:
        raise ConfigError(
            f"--weights lists {twice[0]} more than once. List each file once.",
            code="input-duplicate",
            field="--weights",
            file=twice[0],
        )
    if output.resolve() in [path.resolve() for path in files]:
        raise _unusable(output, f"{output} is also an input and would be overwritten", code="output-is-input")
    if output.is_dir():
        raise _unusable(output, f"{output} is a folder", code="folder-not-file")
    if output.exists() and not overwrite:
        raise ConfigError(
            f"{output} already exists. Replace it with --overwrite, or choose another --output.",
            code="output-exists",
            field="--output",
            file=output,
        )


def _unusable(output: Path, problem: str, code: str) -> ConfigError:
    return ConfigError(f"{problem}. Choose another file for --output.", code=code, field="--output", file=output)


def _read(path: Path) -> Mapping[str, Tensor]:
    weights = read_weights(path)
    check_finite(path, weights)
    return weights


def _compare(first: Path, expected: Mapping[str, Tensor], path: Path, found: Mapping[str, Tensor]) -> None:
    only = sorted(expected.keys() ^ found.keys())
    if only:
        owner = path if only[0] in found else first
        more = f", and {len(only) - 1} more differ" if len(only) > 1 else ""
        raise _mismatch(path, f"{path} does not match {first}: '{only[0]}' is only in {owner}{more}", only)
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            shapes = f"{size_text(found[name].shape)}, but {size_text(tensor.shape)} in {first}"
            raise _mismatch(path, f"{path}: '{name}' has shape {shapes}", [name])
        if not tensor.is_floating_point() and not tensor.equal(found[name]):
            problem = f"Integer buffer '{name}' differs between {first} and {path} and cannot be averaged"
            raise _mismatch(path, problem, [name])


def _mismatch(path: Path, problem: str, names: Sequence[str]) -> ConfigError:
    message = f"{problem}. Average weights of the same architecture and configuration."
    return ConfigError(message, code="weights-mismatch", file=path, found=names)
