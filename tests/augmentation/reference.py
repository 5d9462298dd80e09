"""Each augmentation of a single patch, with the functions of torch that do it directly: what batches must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, interpolate

from mist_ops.augmentation import Drawn, Parameters, Patches
from mist_ops.registry import AUGMENTATIONS

SPATIAL = (2, 3, 4)


def augmented(patch: Patches, drawn: Drawn) -> Patches:
    """Apply augmentations to a batch of one patch, one after another."""
    for name in sorted(drawn, key=lambda name: AUGMENTATIONS[name].order):
        patch = REFERENCES[name](patch, drawn[name])
    return patch


def rotation(patch: Patches, angles: Parameters) -> Patches:
    size, inverse = patch.label.shape[2:], matrix(angles).T.tolist()
    x, y, z = ((torch.arange(n) - (n - 1) / 2) * width for n, width in zip(size, patch.info.spacing, strict=True))
    source = [
        (a / width * x + (n - 1) / 2)[:, None, None] + (b / width * y)[:, None] + c / width * z
        for (a, b, c), width, n in zip(inverse, patch.info.spacing, size, strict=True)
    ]
    grid = torch.stack([at * (2 / n) + (1 / n - 1) for at, n in zip(source, size, strict=True)][::-1], dim=-1)[None]
    index = torch.zeros(size, dtype=torch.int64)
    for at, n in zip(source, size, strict=True):
        index = index * n + at.round().clamp(0, n - 1).long()

    def linear(tensor: Tensor) -> Tensor:
        return grid_sample(tensor, grid, padding_mode="border", align_corners=False)

    dtm = None if patch.dtm is None else linear(patch.dtm)
    return replace(patch, image=linear(patch.image), label=patch.label.flatten()[index][None, None], dtm=dtm)


def matrix(angles: Parameters) -> Tensor:
    (cx, cy, cz), (sx, sy, sz) = map(math.cos, angles), map(math.sin, angles)
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def zoom(patch: Patches, scale: Parameters) -> Patches:
    size = patch.label.shape[2:]
    kept = [round(scale[0] * n) if fine else n for n, fine in zip(size, patch.info.fine, strict=True)]
    crop = [slice((n - width) // 2, (n - width) // 2 + width) for n, width in zip(size, kept, strict=True)]

    def magnified(tensor: Tensor, mode: str) -> Tensor:
        return interpolate(tensor[:, :, *crop], size=size, mode=mode)

    return replace(patch, image=magnified(patch.image, "trilinear"), label=magnified(patch.label, "nearest-exact"))


def flips(patch: Patches, flipped: Parameters) -> Patches:
    dims = [dim for dim, yes in zip(SPATIAL, flipped, strict=True) if yes]
    dtm = None if patch.dtm is None else patch.dtm.flip(dims)
    return replace(patch, image=patch.image.flip(dims), label=patch.label.flip(dims), dtm=dtm)


def noise(patch: Patches, drawn: Parameters) -> Patches:
    sigma, seed = drawn
    field = torch.randn(patch.image.shape, generator=Generator().manual_seed(int(seed)))
    return in_range(patch, patch.image + sigma * field)


def blur(patch: Patches, sigma: Parameters) -> Patches:
    image = patch.image
    for dim, width in zip(SPATIAL, patch.info.spacing, strict=True):
        image = gaussian(image, sigma[0] / width, dim)
    return in_range(patch, image)


def gaussian(image: Tensor, sigma: float, dim: int) -> Tensor:
    radius, n = int(4 * sigma + 0.5), image.shape[dim]
    kernel = [math.exp(-0.5 * (at / sigma) ** 2) for at in range(-radius, radius + 1)]
    first, last = image.narrow(dim, 0, 1), image.narrow(dim, n - 1, 1)
    padded = torch.cat([*[first] * radius, image, *[last] * radius], dim=dim)
    parts: Sequence[Tensor] = [padded.narrow(dim, at, n) * weight for at, weight in enumerate(kernel)]
    return torch.stack([part / sum(kernel) for part in parts]).sum(dim=0)


def low_resolution(patch: Patches, scales: Parameters) -> Patches:
    size = patch.label.shape[2:]

    def coarsened(channel: Tensor, scale: float) -> Tensor:
        fewer = [max(1, round(scale * n)) if fine else n for n, fine in zip(size, patch.info.fine, strict=True)]
        small = interpolate(channel[None, None], size=fewer, mode="nearest-exact")
        return interpolate(small, size=size, mode="trilinear")[0, 0]

    channels = [coarsened(channel, scale) for channel, scale in zip(patch.image[0], scales, strict=True)]
    return replace(patch, image=torch.stack(channels)[None])


def brightness(patch: Patches, factors: Parameters) -> Patches:
    return replace(patch, image=patch.image * torch.tensor(factors).reshape(1, -1, 1, 1, 1))


def contrast(patch: Patches, factors: Parameters) -> Patches:
    mean, factor = patch.image.mean(dim=SPATIAL, keepdim=True), torch.tensor(factors).reshape(1, -1, 1, 1, 1)
    return in_range(patch, mean + factor * (patch.image - mean))


def gamma(patch: Patches, powers: Parameters) -> Patches:
    image = patch.image.clone()
    for channel, power in zip(image[0], powers, strict=True):
        values = channel if power > 0 else -channel
        low, high = values.min(), values.max()
        if high - low > 1e-6:
            raised = ((values - low) / (high - low)).pow(abs(power))
            raised = (raised - raised.mean()) * (values.std() / raised.std()) + values.mean()
            channel.copy_(raised if power > 0 else -raised)
    return replace(patch, image=image)


def in_range(patch: Patches, image: Tensor) -> Patches:
    low, high = patch.image.amin(dim=SPATIAL, keepdim=True), patch.image.amax(dim=SPATIAL, keepdim=True)
    return replace(patch, image=image.clamp(low, high))


REFERENCES = {
    "rotation": rotation,
    "zoom": zoom,
    "flips": flips,
    "noise": noise,
    "blur": blur,
    "low_resolution": low_resolution,
    "brightness": brightness,
    "contrast": contrast,
    "gamma": gamma,
}
