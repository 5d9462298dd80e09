"""Probabilities of a whole volume, from a network that sees patches.

With n classes and V voxels of the preprocessed image, the peak is ``4 (2 n + 2) V`` bytes beside the image, its
mirrored copy and a batch of windows, whatever the number of flips and models: the running sum, one volume of stitched
logits, and two of a single class. On a GPU that has no room for the stitched logits, these lie in main memory and the
GPU holds a slab one patch wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.devices import autocast
from mist_ops.inference.flips import Axes, flip, flips

Volumes: TypeAlias = Float[Tensor, "class x y z"]

# What windows and activations may need beside the stitched volumes, as a share of the memory that is free.
_HEADROOM = 0.5


def predict(
    models: Sequence[nn.Module], image: Float[Tensor, "1 channel x y z"], config: StudyConfig, device: torch.device
) -> Volumes:
    """Class probabilities of a preprocessed image, float32 on the CPU.

    They are the mean, over flips and models with equal weight, of the softmax of logits that were stitched from
    overlapping windows. An image smaller than a patch is padded with zeros at both ends.

    Args:
        models: Networks in evaluation mode that map windows to logits. One at a time is on the device.
        image: All channels, normalized.
        config: Gives the patch size, ``inference``, and the default batch of windows (twice the training batch).
        device: Where the networks run.
    """
    turns = flips(config.inference.tta)
    n_classes = config.model.params.out_channels
    total = torch.zeros((n_classes, *image.shape[2:]))
    inferer = _inferer(config, _stitching_device(n_classes, image, device), device)
    for model in models:
        model.to(device)
        for axes in turns:
            _add(total, _probabilities(model, flip(image, axes), inferer, config, device), axes)
        if len(models) > 1:
            model.to("cpu")
    return total.div_(len(models) * len(turns))


@torch.inference_mode()
def _probabilities(
    model: nn.Module, image: Tensor, inferer: SlidingWindowInferer, config: StudyConfig, device: torch.device
) -> Volumes:
    def logits_of(windows: Tensor) -> Tensor:
        # BF16 logits would lose digits where windows are summed.
        scores: Tensor = model(windows)
        return scores.float()

    with autocast(device, config.training.amp):
        stitched = inferer(image, logits_of)
    assert isinstance(stitched, Tensor)
    return _softmax_in_place(stitched[0])


def _softmax_in_place(logits: Volumes) -> Volumes:
    # torch.softmax makes a second volume of all classes.
    logits.sub_(logits.amax(0)).exp_()
    return logits.div_(logits.sum(0))


def _add(total: Volumes, probabilities: Volumes, axes: Axes) -> None:
    # A class at a time: the flipped copy is of one class only.
    for sum_of_class, of_class in zip(total, probabilities, strict=True):
        sum_of_class.add_(flip(of_class, axes).cpu())


def _inferer(config: StudyConfig, stitching: torch.device, device: torch.device) -> SlidingWindowInferer:
    params = config.inference.inferer.params
    return SlidingWindowInferer(
        roi_size=config.spatial_config.patch_size,
        sw_batch_size=params.sw_batch_size or 2 * config.training.batch_size_per_gpu,
        overlap=params.patch_overlap,
        mode=params.patch_blend_mode,
        sw_device=device,
        device=stitching,
        buffer_steps=None if stitching == device else 1,
    )


def _stitching_device(n_classes: int, image: Tensor, device: torch.device) -> torch.device:
    """The device itself if the logits and the weights of the windows fit there, else the CPU."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    needed = 4 * (n_classes + 2) * image[0, 0].numel()
    return device if needed < _HEADROOM * free else torch.device("cpu")
