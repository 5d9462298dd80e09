"""Sliding-window inference: class probabilities of a whole volume.

A large volume is divided into slabs, so that memory is bounded for any number of voxels, classes, flips and models.
With n classes and v voxels of a slab and its reach, the peak is about ``8 n v`` bytes, beside the image and the
activations of a batch of windows. If that does not fit on the GPU, it is in main memory, and the GPU holds a part one
patch wide.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.devices import autocast
from mist_ops.inference.flips import Axes, flip, flips
from mist_ops.inference.slabs import Slab, divide, reach
from mist_ops.machine import installed_memory
from mist_ops.types import Size

Volumes: TypeAlias = Float[Tensor, "class x y z"]

_LEAST_BUDGET = 3 * 2**30
_SHARE = 8

# Share of free GPU memory that stitched volumes may take; the rest is for windows and activations.
_HEADROOM = 0.5


def predict(
    models: Sequence[nn.Module], image: Float[Tensor, "1 channel x y z"], config: StudyConfig, device: torch.device
) -> Volumes:
    """Class probabilities of a preprocessed image, float32 on the CPU; see ``predict_slabs``."""
    [(_, volumes)] = predict_slabs(models, image, config, device, budget=sys.maxsize)
    return volumes


def predict_slabs(
    models: Sequence[nn.Module],
    image: Float[Tensor, "1 channel x y z"],
    config: StudyConfig,
    device: torch.device,
    budget: int | None = None,
) -> Iterator[tuple[Slab, Volumes]]:
    """Yield the class probabilities of a preprocessed image slab by slab, float32 on the CPU.

    They are the mean over flips and models of the softmax of logits stitched from overlapping windows. An image smaller
    than a patch is padded with zeros on both sides. Each slab but the first begins with the last plane of the previous
    one, for interpolation between the two.

    Args:
        models: Networks in evaluation mode that map windows to logits. They stay on the device if there is memory for
            everything else, too; otherwise one at a time is there.
        image: All channels, normalized.
        config: Gives the patch size, ``inference``, and the default batch of windows (see ``window_batch``).
        device: Where the networks run.
        budget: Bytes for probabilities and logits together; ``memory_budget`` by default.
    """
    n_classes, size = config.model.params.out_channels, _size(image)
    last: Tensor | None = None
    for slab in planned_slabs(size, config, device, budget):
        repeated = 0 if last is None else 1
        whole = Slab(slab.axis, slab.start - repeated, slab.stop)
        volumes = torch.zeros((n_classes, *whole.size_in(size)))
        own = volumes.narrow(1 + slab.axis, repeated, slab.thickness)
        _predict_slab(models, image, slab, own, config, device)
        if last is not None:
            volumes.narrow(1 + slab.axis, 0, 1).copy_(last)
        last = volumes.narrow(1 + slab.axis, whole.thickness - 1, 1).clone()
        yield whole, volumes
        del volumes, own  # before the next one is computed


def planned_slabs(size: Size, config: StudyConfig, device: torch.device, budget: int | None = None) -> list[Slab]:
    """The slabs of ``predict_slabs``."""
    overlap, n_classes = config.inference.inferer.params.patch_overlap, config.model.params.out_channels
    allowed = memory_budget(device) if budget is None else budget
    return divide(size, config.spatial_config.patch_size, overlap, n_classes, allowed)


def memory_budget(device: torch.device) -> int:
    """Bytes of probabilities and logits above which a volume is divided into slabs.

    Windows that overlap with two slabs are computed twice, so a machine with a GPU, which usually has memory to spare,
    uses an eighth of it. Free memory is ignored, so that results on a machine are reproducible.
    """
    return max(_LEAST_BUDGET, installed_memory() // _SHARE) if device.type == "cuda" else _LEAST_BUDGET


def _predict_slab(
    models: Sequence[nn.Module], image: Tensor, slab: Slab, total: Tensor, config: StudyConfig, device: torch.device
) -> None:
    """Write the mean over models and flips to ``total``, which is in main memory."""
    turns, place = flips(config.inference.tta), _place(image, slab, config, device)
    summed = total if place == total.device else torch.zeros_like(total, device=place)
    for model in models:
        model.to(device)
        for axes in turns:
            _add(summed, _probabilities(model, image, slab, axes, config, device, place), axes)
        if len(models) > 1 and place != device:
            model.to("cpu")
    summed.div_(len(models) * len(turns))
    if summed is not total:
        total.copy_(summed)


@torch.inference_mode()
def _probabilities(
    model: nn.Module,
    image: Tensor,
    slab: Slab,
    axes: Axes,
    config: StudyConfig,
    device: torch.device,
    place: torch.device,
) -> Volumes:
    """The probabilities of a slab of the mirrored image, also mirrored, stitched on ``place``."""
    planes, patch = image.shape[2 + slab.axis], config.spatial_config.patch_size[slab.axis]
    mirrored = slab.axis - 3 in axes
    requested = slab.mirrored(planes) if mirrored else slab
    seen = reach(requested, planes, patch, config.inference.inferer.params.patch_overlap)
    source = seen.mirrored(planes) if mirrored else seen
    part = image.narrow(2 + slab.axis, source.start, source.thickness).to(place)
    inferer = _inferer(config, place, device)

    def logits_of(windows: Tensor) -> Tensor:
        # BF16 logits lose digits when windows are summed.
        scores: Tensor = model(windows)
        return scores.float()

    with autocast(device, config.training.amp):
        stitched = inferer(flip(part, axes), logits_of)
    assert isinstance(stitched, Tensor)
    return _softmax_in_place(stitched[0].narrow(1 + slab.axis, requested.start - seen.start, requested.thickness))


def _softmax_in_place(logits: Volumes) -> Volumes:
    # torch.softmax allocates a second volume of all classes.
    logits.sub_(logits.amax(0)).exp_()
    return logits.div_(logits.sum(0))


def _add(total: Volumes, probabilities: Volumes, axes: Axes) -> None:
    # One class at a time, so that the flipped copy has one class only.
    for sum_of_class, of_class in zip(total, probabilities, strict=True):
        sum_of_class.add_(flip(of_class, axes))


def _inferer(config: StudyConfig, stitching: torch.device, device: torch.device) -> SlidingWindowInferer:
    params = config.inference.inferer.params
    return SlidingWindowInferer(
        roi_size=config.spatial_config.patch_size,
        sw_batch_size=params.sw_batch_size or window_batch(config, device),
        overlap=params.patch_overlap,
        mode=params.patch_blend_mode,
        sw_device=device,
        device=stitching,
        buffer_steps=None if stitching == device else 1,
    )


def window_batch(config: StudyConfig, device: torch.device) -> int:
    """Windows per forward pass by default: twice the training batch on a GPU, one on a CPU.

    On a CPU more windows are not faster (``nnunet`` takes 93 ms on one core for a window of 32^3, and 99 ms each in a
    batch of four) but need memory: 32 channels of a window of 128^3 are 0.25 GiB.
    """
    return 2 * config.training.batch_size_per_gpu if device.type == "cuda" else 1


def _size(image: Tensor) -> Size:
    x, y, z = image.shape[2:]
    return x, y, z


def _place(image: Tensor, slab: Slab, config: StudyConfig, device: torch.device) -> torch.device:
    """Where logits are stitched and probabilities added: the device if there is memory for them, else the CPU."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    patch, overlap = config.spatial_config.patch_size[slab.axis], config.inference.inferer.params.patch_overlap
    seen = reach(slab, image.shape[2 + slab.axis], patch, overlap)
    # Logits with their weights, probabilities of the slab, and the image with its flipped copy.
    classes, channels = config.model.params.out_channels, image.shape[1]
    needed = 4 * (2 * classes + 2 + 2 * channels) * math.prod(seen.size_in(_size(image)))
    return device if needed < _HEADROOM * free else torch.device("cpu")
