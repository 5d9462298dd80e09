"""Transfer learning: a network starts from the encoder of one that was trained before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mist_ops.config import StudyConfig, read_config
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash
from mist_ops.models.weights import read_weights
from mist_ops.records.passport import Encoder, Source, read_passport
from mist_ops.registry import MODELS

InputChannels: TypeAlias = Literal["average", "first", "skip"]


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from.

    Attributes:
        weights: File of a trained network.
        config: config.json that it was trained with.
        input_channels: What becomes of the tensors that see the image where the numbers of channels differ: each
            channel gets the mean over those of the source, or its first, or keeps its random start.
    """

    weights: Path
    config: Path
    input_channels: InputChannels = "average"


def check(pretrained: Pretrained, config: StudyConfig) -> None:
    """Refuse weights whose network is another, before anything is built.

    Networks are of one kind if architecture and topology (kernels and strides, which follow from patch and spacing) are
    equal; patches may differ.

    Raises:
        ConfigError: A file is missing, or the networks differ.
    """
    if not pretrained.weights.is_file():
        raise ConfigError(f"There are no pretrained weights {pretrained.weights}. Check --pretrained-weights.")
    if not pretrained.config.is_file():
        raise ConfigError(f"There is no {pretrained.config}. Name the config.json of the weights: --pretrained-config.")
    source = read_config(pretrained.config)
    before, now = source.model.architecture, config.model.architecture
    if before != now:
        raise ConfigError(f"{pretrained.weights} belongs to {before}, but the model is {now}. Give --model {before}.")
    if _topology(source) != _topology(config):
        raise ConfigError(
            f"{pretrained.weights} was trained on {_grid(source)}, but this model is for {_grid(config)}, where the "
            "network has other kernels or strides. Choose a patch size that gives the same ones."
        )


def transfer(pretrained: Pretrained, config: StudyConfig, network: nn.Module) -> Encoder:
    """Put the encoder of the pretrained weights into a network, and return where it came from.

    Means over channels, and repeated first channels, are taken as they are and not scaled to the number of channels:
    the normalization after the first convolution takes the scale out.

    Raises:
        ConfigError: As in ``check``; or the file lacks a tensor of the encoder, or has one of another shape.
    """
    check(pretrained, config)
    source, target = read_weights(pretrained.weights), network.state_dict()
    encoder = {name: tensor for name, tensor in target.items() if _in_encoder(name, config)}
    if not encoder:
        raise ConfigError(
            f"The architecture {config.model.architecture} names no encoder, so nothing can be taken over."
        )
    channels = read_config(pretrained.config).model.params.in_channels, config.model.params.in_channels
    loaded, adapted, skipped = {}, {}, []
    for name, tensor in encoder.items():
        found = source.get(name)
        if found is not None and found.shape == tensor.shape:
            loaded[name] = found
        elif found is None or not _sees_image(found, tensor, channels):
            raise ConfigError(f"{pretrained.weights} does not fit: {_misfit(name, found, tensor)}.")
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
    )


def _topology(config: StudyConfig) -> object:
    follows, grid = MODELS[config.model.architecture].topology, config.spatial_config
    return follows and follows(grid.patch_size, grid.target_spacing)


def _grid(config: StudyConfig) -> str:
    patch, spacing = config.spatial_config.patch_size, config.spatial_config.target_spacing
    return f"patches of {'x'.join(map(str, patch))} voxels of {'x'.join(f'{length:g}' for length in spacing)} mm"


def _in_encoder(name: str, config: StudyConfig) -> bool:
    return name.startswith(MODELS[config.model.architecture].encoder)


def _sees_image(found: Tensor, wanted: Tensor, channels: tuple[int, int]) -> bool:
    """Whether two tensors differ only in the image channels that they take in."""
    if found.ndim != wanted.ndim or found.ndim < 2:
        return False
    alike = found.shape[:1] + found.shape[2:] == wanted.shape[:1] + wanted.shape[2:]
    return alike and (found.shape[1], wanted.shape[1]) == channels


def _adapted(found: Tensor, wanted: Tensor, how: InputChannels) -> Tensor:
    one = found.mean(dim=1, keepdim=True) if how == "average" else found[:, :1]
    repeats = [wanted.shape[1] if axis == 1 else 1 for axis in range(wanted.ndim)]
    return torch.tile(one, repeats)


def _misfit(name: str, found: Tensor | None, wanted: Tensor) -> str:
    if found is None:
        return f"it has no '{name}', which the encoder of this network needs"
    return f"'{name}' has the shape {tuple(found.shape)}, and {tuple(wanted.shape)} is needed"


def _source(weights: Path) -> Source | None:
    """The passport of the pretrained weights, in short."""
    if not weights.with_suffix(".json").is_file():
        return None
    passport = read_passport(weights)
    return Source(fold=passport.fold, weights=passport.weights, settings=passport.settings, content=passport.content)
