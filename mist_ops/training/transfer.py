"""Transfer learning: initialize the encoder of a network, or all of it, with pretrained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mist_ops.config import StudyConfig, read_config
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash
from mist_ops.models.weights import read_weights
from mist_ops.records.passport import Encoder, Source, read_passport
from mist_ops.registry import MODELS
from mist_ops.training.pretrained import InputChannels, Pretrained


def check(pretrained: Pretrained, config: StudyConfig) -> None:
    """Refuse weights of another architecture or topology, before the network is built.

    The topology is the kernels and strides, which follow from patch size and spacing; patches of other sizes are
    allowed.

    Raises:
        ConfigError: A file is missing, or the networks differ.
    """
    if not pretrained.weights.is_file():
        raise ConfigError(
            f"{pretrained.weights} does not exist. Check --pretrained-weights.",
            code="weights-missing",
            file=pretrained.weights,
        )
    if not pretrained.config.is_file():
        raise ConfigError(
            f"{pretrained.config} does not exist. Set --pretrained-config to the config.json of the weights.",
            code="config-missing",
            file=pretrained.config,
        )
    source = read_config(pretrained.config)
    before, now = source.model.architecture, config.model.architecture
    if before != now:
        raise ConfigError(
            f"{pretrained.weights} has the architecture {before}, but the model is {now}. Use --model {before}.",
            code="pretrained-mismatch",
            file=pretrained.weights,
            field="model.architecture",
            found=before,
            expected=now,
        )
    if _topology(source) != _topology(config):
        raise ConfigError(
            f"{pretrained.weights} was trained on {_grid(source)}, but this model uses {_grid(config)}, which needs "
            "different kernels or strides. Choose a patch size that gives the same ones.",
            code="pretrained-mismatch",
            file=pretrained.weights,
            field="spatial_config",
        )


def transfer(pretrained: Pretrained, config: StudyConfig, network: nn.Module) -> Encoder:
    """Load the encoder of the pretrained weights, or all of them, into a network, and return the record of that.

    Adapted channels are not scaled by the number of channels, since the normalization after the first convolution
    removes the scale.

    Raises:
        ConfigError: As ``check``; or a tensor of the encoder is missing from the file or has another shape.
    """
    check(pretrained, config)
    source, target = read_weights(pretrained.weights), network.state_dict()
    encoder = {name: tensor for name, tensor in target.items() if pretrained.whole or _in_encoder(name, config)}
    if not encoder:
        raise ConfigError(
            f"The architecture {config.model.architecture} declares no encoder, so it cannot use pretrained weights.",
            code="encoder-missing",
            field="model.architecture",
            found=config.model.architecture,
        )
    channels = read_config(pretrained.config).model.params.in_channels, config.model.params.in_channels
    loaded, adapted, skipped = {}, {}, []
    for name, tensor in encoder.items():
        found = source.get(name)
        if found is not None and found.shape == tensor.shape:
            loaded[name] = found
        elif found is None or not _sees_image(found, tensor, channels):
            raise ConfigError(
                f"{pretrained.weights} does not match the {'network' if pretrained.whole else 'encoder'}: "
                f"{_mismatch(name, found, tensor)}.",
                code="pretrained-mismatch",
                file=pretrained.weights,
                field=name,
            )
        elif pretrained.input_channels == "skip":
            skipped.append(name)
        else:
            adapted[name] = _adapted(found, tensor, pretrained.input_channels)
    network.load_state_dict({**target, **loaded, **adapted})
    return Encoder(
        weights=file_hash(pretrained.weights),
        config=file_hash(pretrained.config),
        architecture=config.model.architecture,
        input_channels=pretrained.input_channels,
        loaded=len(loaded),
        loaded_values=sum(tensor.numel() for tensor in loaded.values()),
        adapted=tuple(sorted(adapted)),
        skipped=tuple(skipped),
        passport=_source(pretrained.weights),
        whole=pretrained.whole,
    )


def _topology(config: StudyConfig) -> object:
    follows, grid = MODELS[config.model.architecture].topology, config.spatial_config
    return follows and follows(grid.patch_size, grid.target_spacing)


def _grid(config: StudyConfig) -> str:
    patch, spacing = config.spatial_config.patch_size, config.spatial_config.target_spacing
    return f"patches of {'x'.join(map(str, patch))} voxels of {'x'.join(f'{length:g}' for length in spacing)} mm"


def _in_encoder(name: str, config: StudyConfig) -> bool:
    return name.startswith(MODELS[config.model.architecture].encoder)


def _sees_image(found: Tensor, expected: Tensor, channels: tuple[int, int]) -> bool:
    """Whether two tensors differ only in the number of input channels."""
    if found.ndim != expected.ndim or found.ndim < 2:
        return False
    same = found.shape[:1] + found.shape[2:] == expected.shape[:1] + expected.shape[2:]
    return same and (found.shape[1], expected.shape[1]) == channels


def _adapted(found: Tensor, expected: Tensor, how: InputChannels) -> Tensor:
    one = found.mean(dim=1, keepdim=True) if how == "average" else found[:, :1]
    repeats = [expected.shape[1] if axis == 1 else 1 for axis in range(expected.ndim)]
    return torch.tile(one, repeats)


def _mismatch(name: str, found: Tensor | None, expected: Tensor) -> str:
    if found is None:
        return f"'{name}' is missing"
    shapes = ("x".join(map(str, tensor.shape)) for tensor in (found, expected))
    return "'{}' has shape {}, but {} is needed".format(name, *shapes)


def _source(weights: Path) -> Source | None:
    """The passport of the pretrained weights, in short."""
    if not weights.with_suffix(".json").is_file():
        return None
    passport = read_passport(weights)
    return Source(fold=passport.fold, weights=passport.weights, settings=passport.settings, content=passport.content)
