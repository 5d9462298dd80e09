"""Time augmentations on one thread: each alone, and whole training batches.

python bench/augmentation.py --size 128 128 128 --spacing 1 1 1
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mist_ops.augmentation import Parameters, Patches, PatchInfo, augment
from mist_ops.config import AugmentationConfig
from mist_ops.files import write_array
from mist_ops.registry import AUGMENTATIONS
from mist_ops.study import Study
from mist_ops.training.batches import PatchSampler, PatchSettings
from mist_ops.training.cases import index_case
from mist_ops.training.voxels import seeded
from mist_ops.types import Size, Spacing

TIMES, BATCHES, BATCH_SIZE = 10, 20, 2


def main() -> None:
    """Print CPU milliseconds of each augmentation and of batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(128, 128, 128), help="voxels of a patch along x, y, z")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0), help="mm along x, y, z")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("augmentation", "ms", "probability", title=f"One channel, {'×'.join(map(str, options.size))} voxels")
    for name, milliseconds, share in _each(tuple(options.size), tuple(options.spacing)):
        table.add_row(name, f"{milliseconds:.1f}", f"{share:.3g}")
    table.add_section()
    with tempfile.TemporaryDirectory() as folder:
        for name, milliseconds in _batches(Path(folder), tuple(options.size), tuple(options.spacing)):
            table.add_row(f"batch of {BATCH_SIZE}, {name}", f"{milliseconds:.1f}")
    Console().print(table)


def _each(size: Size, spacing: Spacing) -> Iterator[tuple[str, float, float]]:
    generator = seeded("bench")
    image = torch.randn((1, 1, *size), generator=generator)
    patches = Patches(image, (image > 1).byte(), None, PatchInfo(1, size, spacing))
    for name, augmentation in AUGMENTATIONS.items():

        def once(name: str = name, draw: Callable[..., Parameters] = augmentation.draw) -> None:
            augment(patches, [{name: draw(patches.info, generator)}])

        yield name, _timed(once, TIMES), augmentation.probability


def _batches(folder: Path, size: Size, spacing: Spacing) -> Iterator[tuple[str, float]]:
    study = Study("bench", folder, folder)
    noise = np.random.default_rng(0).standard_normal((*(n + n // 2 for n in size), 1), dtype=np.float32)
    write_array(study.image("noise"), noise)
    write_array(study.label("noise"), (noise > 1).astype(np.uint8))
    case = index_case(study, "noise", 1, 2)
    default = tuple(AugmentationConfig().transforms)
    for title, names in (("no augmentation", ()), ("the default set", default), ("all", tuple(AUGMENTATIONS))):
        sampler = PatchSampler((case,), PatchSettings(size, 0.6, names, spacing), BATCH_SIZE, BATCHES)
        steps = iter(range(BATCHES + 1))
        yield title, _timed(lambda sampler=sampler, steps=steps: sampler[next(steps)].augmented(), BATCHES)


def _timed(work: Callable[[], object], times: int) -> float:
    """CPU milliseconds of a call, after a first one that also allocates memory."""
    work()
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times * 1000


if __name__ == "__main__":
    main()
