"""Sliding-window inference: class probabilities of a whole volume.

A large volume is divided into tiles, so that memory is bounded for any number of voxels, classes, flips and models; see
``Division.bytes_needed``. Windows that reach into later tiles are not computed again if there is memory for their sums,
or a place on the disk. Logits and probabilities are in the memory of the device if the tiles fit there, else in main
memory.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.devices import autocast
from mist_ops.guard.certainty import Certainty
from mist_ops.inference.carrying import Carried, box_of, scratch
from mist_ops.inference.flips import flips
from mist_ops.inference.stitching import Start, Turn, cut, importance
from mist_ops.inference.tiles import Division, Tile, Windows, divide
from mist_ops.types import Box, Size

Volumes: TypeAlias = Float[Tensor, "class x y z"]

MAIN_MEMORY = 3 * 2**30
"""Bytes of probabilities and logits in main memory above which a volume is divided into tiles. Free memory is ignored,
so that the time that a prediction takes on a machine is reproducible."""

DISK = 16 * 2**30
"""Bytes of temporary files for sums that do not fit into main memory; at most half of what is free on the disk."""

_HEADROOM = 0.5
"""Share of the free memory of a GPU for image, logits and probabilities; the rest is for windows and activations."""


class Plan(NamedTuple):
    """How a volume is predicted.

    Attributes:
        division: Its tiles.
        place: Where logits are stitched and probabilities added.
    """

    division: Division
    place: torch.device

    def bytes_needed(self, n_classes: int) -> int:
        """Bytes of logits and probabilities on ``place``."""
        return self.division.bytes_needed(n_classes)


def predict(
    models: Sequence[nn.Module], image: Float[Tensor, "1 channel x y z"], config: StudyConfig, device: torch.device
) -> Volumes:
    """Class probabilities of a preprocessed image, float32 on the CPU; see ``predict_tiles``."""
    [(_, volumes)] = predict_tiles(models, image, config, device, budget=sys.maxsize)
    return volumes.cpu()


def predict_tiles(
    models: Sequence[nn.Module],
    image: Float[Tensor, "1 channel x y z"],
    config: StudyConfig,
    device: torch.device,
    budget: int | None = None,
    watch: Certainty | None = None,
) -> Iterator[tuple[Box, Volumes]]:
    """Yield the class probabilities of a preprocessed image tile by tile, float32, on the device if they fit there.

    They are the mean over flips and models of the softmax of logits stitched from overlapping windows. An image smaller
    than a patch is padded with zeros on both sides. A tile begins with the last plane of the previous one along each
    axis, for interpolation between the two.

    Args:
        models: Networks in evaluation mode that map windows to logits. They stay on the device if there is memory for
            everything else, too; otherwise one at a time is there.
        image: All channels, normalized.
        config: Gives the patch size, ``inference``, and the default batch of windows (see ``window_batch``).
        device: Where the networks run.
        budget: Bytes for probabilities and logits together; by default as in ``plan``.
        watch: Is given the probabilities of each network alone and of all together.

    Raises:
        OSError: The disk is too full for temporary files.
    """
    n_classes = config.model.params.out_channels
    division, place = plan(_size(image), config, device, len(models), budget)
    image, borders = image.to(place), Carried(division.order)
    space = torch.empty((n_classes + 1, division.most_summed()), device=place)
    with scratch(division.sums == "disk") as disk:
        turns = [
            [Turn(division, axes, Carried(division.order, disk)) for axes in flips(config.inference.tta)]
            for _ in models
        ]
        for tile in division.tiles():
            spans = division.bordered(tile)
            box = box_of(spans)
            volumes = torch.zeros((n_classes, *box.size), device=place)
            borders.fill(volumes, spans)
            x, y, z = (slice(span.lead - span.begin, None) for span in spans)
            own = volumes[:, x, y, z]
            for number, (model, passes) in enumerate(zip(models, turns, strict=True)):
                model.to(device)
                # The sum is continued, not added to, so that a watched mask is the same to the last voxel.
                before = own.clone() if watch and number else 0
                _add(own, space, model, passes, image, tile, config, device)
                if watch:
                    watch.alone(number, (own - before) / len(passes))
                if len(models) > 1 and place != device:
                    model.to("cpu")
            own.div_(len(models) * len(turns[0]))
            if watch:
                first, second, third = (span.lead for span in spans)
                watch.together(Box((first, second, third), box.stop), own)
            borders.keep(volumes, spans)
            yield box, volumes
            del volumes, own  # before the next one is computed


def plan(size: Size, config: StudyConfig, device: torch.device, models: int, budget: int | None = None) -> Plan:
    """Divide a volume into tiles that fit into memory, on a GPU into half of what is free there.

    Args:
        size: Voxels of the preprocessed image.
        config: See ``predict_tiles``.
        device: Where the networks run. If not even small tiles fit there, logits and probabilities are in main memory.
        models: Number of networks.
        budget: Bytes for logits and probabilities on the device.
    """
    turns = flips(config.inference.tta)
    overlap, n_classes = config.inference.inferer.params.patch_overlap, config.model.params.out_channels
    windows = Windows(size, config.spatial_config.patch_size, overlap, models * len(turns), mirrored=any(turns))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        image = 4 * config.model.params.in_channels * size[0] * size[1] * size[2]
        allowed = int(_HEADROOM * free) - image if budget is None else budget
        found = Plan(divide(windows, n_classes, allowed), device)
        if found.bytes_needed(n_classes) <= allowed or budget is not None:
            return found
        device = torch.device("cpu")
    disk = min(DISK, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    return Plan(divide(windows, n_classes, MAIN_MEMORY if budget is None else budget, disk), device)


@torch.inference_mode()
def _add(
    total: Volumes,
    space: Tensor,
    model: nn.Module,
    turns: Sequence[Turn],
    image: Tensor,
    tile: Tile,
    config: StudyConfig,
    device: torch.device,
) -> None:
    """Add the probabilities of a model on all flips of a tile to ``total``; sums are computed in ``space``."""
    patch, blending = config.spatial_config.patch_size, config.inference.inferer.params.patch_blend_mode
    weights = importance(patch, blending, total.device)
    due = [turn.due(tile) for turn in turns]
    together = [(turn, start) for turn, starts in zip(turns, due, strict=True) for start in starts]
    outputs = _outputs(model, image, together, config, device)
    for turn, starts in zip(turns, due, strict=True):
        sums = turn.sums(tile, space)
        for start in starts:
            sums.add(next(outputs).to(total.device), weights, start, turn.axes)
        sums.add_probabilities(total)
        turn.keep(sums)


def _outputs(
    model: nn.Module, image: Tensor, windows: Sequence[tuple[Turn, Start]], config: StudyConfig, device: torch.device
) -> Iterator[Volumes]:
    """Logits of mirrored windows in order. A batch may hold windows of several flips."""
    patch, most = config.spatial_config.patch_size, window_batch(config, device)
    for first in range(0, len(windows), most):
        batch = torch.cat(
            [cut(image, start, patch, turn.axes).to(device) for turn, start in windows[first : first + most]]
        )
        with autocast(device, config.training.amp):
            logits = model(batch)
        del batch
        yield from logits
        del logits  # before the next windows


def window_batch(config: StudyConfig, device: torch.device) -> int:
    """Windows per forward pass: ``sw_batch_size``; by default twice the training batch on a GPU, one on a CPU.

    A batch that trained fits with its gradients, so twice as many windows fit without them.
    On a CPU more windows are not faster (``nnunet`` takes 93 ms on one core for a window of 32^3, and 99 ms each in a
    batch of four) but need memory: 32 channels of a window of 128^3 are 0.25 GiB.
    """
    default = 2 * config.training.batch_size_per_gpu if device.type == "cuda" else 1
    return config.inference.inferer.params.sw_batch_size or default


def _size(image: Tensor) -> Size:
    x, y, z = image.shape[2:]
    return x, y, z
