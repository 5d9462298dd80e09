"""Augmentations that change intensities; labels and distance maps stay.

Each channel is treated as an image of its own, with its own factor and its own range: channels are different
sequences, whose intensities do not compare. Results keep to the range the channel had, but for brightness.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float32
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from mist_ops.augmentation import Augmentation, Patch, uniform
from mist_ops.registry import AUGMENTATIONS


def noise(patch: Patch, generator: Generator) -> Patch:
    """Add Gaussian noise with a standard deviation of up to 0.33, that of a normalized image being 1."""
    sigma = uniform(generator, 0.0, 0.33)
    return _in_range(patch, patch.image + sigma * torch.randn(patch.image.shape, generator=generator))


def blur(patch: Patch, generator: Generator) -> Patch:
    """Blur with a Gaussian of 0.5 to 1.5 voxels; the border is continued, so that it does not darken."""
    sigma = uniform(generator, 0.5, 1.5)
    return _in_range(
        patch, torch.from_numpy(gaussian_filter(patch.image.numpy(), sigma, mode="nearest", axes=(1, 2, 3)))
    )


def brightness(patch: Patch, generator: Generator) -> Patch:
    """Multiply each channel by 0.7 to 1.3."""
    return replace(patch, image=patch.image * _factors(patch, generator, 0.7, 1.3))


def contrast(patch: Patch, generator: Generator) -> Patch:
    """Stretch or compress each channel about its mean by 0.65 to 1.5."""
    mean = patch.image.mean(dim=(1, 2, 3), keepdim=True)
    return _in_range(patch, mean + (patch.image - mean) * _factors(patch, generator, 0.65, 1.5))


def _factors(patch: Patch, generator: Generator, low: float, high: float) -> Float32[Tensor, "channel 1 1 1"]:
    return low + (high - low) * torch.rand((len(patch.image), 1, 1, 1), generator=generator)


def _in_range(patch: Patch, image: Float32[Tensor, "channel x y z"]) -> Patch:
    low, high = patch.image.amin(dim=(1, 2, 3), keepdim=True), patch.image.amax(dim=(1, 2, 3), keepdim=True)
    return replace(patch, image=image.clamp(low, high))


AUGMENTATIONS.register("noise")(Augmentation(noise, place=30, probability=0.15))
AUGMENTATIONS.register("blur")(Augmentation(blur, place=40, probability=0.15))
AUGMENTATIONS.register("brightness")(Augmentation(brightness, place=50, probability=0.15))
AUGMENTATIONS.register("contrast")(Augmentation(contrast, place=60, probability=0.15))
