"""Time whole commands, start-up included, side by side with MIST: medians of CPU and wall seconds.

python bench/commands.py --reference /path/to/environment/bin/python [--decathlon Task04_Hippocampus]

The patients are phantoms like BraTS: four channels of integers that are zero outside the head, and three labels. Each
side analyzes and preprocesses by itself; both score and postprocess the same masks.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import Cost, cost

from mist_ops.files import write_json
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.phantoms import LESION, phantom
from mist_ops.types import Size

SEVEN = ("dice", "haus95", "surf_dice", "avg_surf", "cldice", "lesion_wise_dice", "lesion_wise_haus95")
# Mixtures of the two channels of a phantom.
CHANNELS = {"t1": (1.0, 0.0), "t1ce": (0.8, 0.2), "t2": (0.0, 1.0), "flair": (0.3, 0.7)}
CLASSES = {"whole_lesion": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
STRATEGY = [
    {
        "transform": name,
        "apply_to_labels": [1, 2, 3],
        "per_label": True,
        "kwargs": {},
    }
    for name in ("remove_small_objects", "get_top_k_connected_components", "fill_holes_with_label")
]


@dataclass(frozen=True)
class Work:
    """A command to time.

    Attributes:
        name: Shown in the table.
        goal: MIST's CPU time divided by ours, at least.
        command: The command with its arguments; ``{out}`` is a new folder, ``{side}`` one that each side keeps.
    """

    name: str
    goal: float
    command: Sequence[str]


def main() -> None:
    """Time both sides and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    parser.add_argument("--decathlon", type=Path, help="folder of a task of the Decathlon, to convert")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="names of commands, such as evaluate")
    options = parser.parse_args()
    sides = [Path(sys.executable).parent, *([options.reference.parent] if options.reference else [])]
    table = Table("command", "CPU s", "s", "MIST CPU s", "MIST s", "MIST : ours, CPU", "wall", "goal")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAGSTER_HOME"] = f"{folder}/dagster_home"
        inputs = _inputs(Path(folder), options.patients, tuple(options.size))
        for work in _works(inputs, options.workers, options.decathlon):
            if options.only and not any(name in work.name for name in options.only):
                continue
            folders = [Path(folder) / f"side_{place}" for place in range(len(sides))]
            costs = [_median(*side, work, options.repeats) for side in zip(sides, folders, strict=True)]
            _row(table, work, costs)
            shown = (f"{found.cpu:.2f} CPU s, {found.wall:.2f} s" for found in costs)
            Console(width=140).print(work.name, *shown, sep=" | ")
    Console(width=140).print(table)


def _works(folder: Path, workers: int, decathlon: Path | None) -> Iterator[Work]:
    study = ["--results", "{side}/results"]
    analyze = ["mist_analyze", "--data", str(folder / "data/dataset.json"), "--num-workers-analyze", str(workers)]
    preprocess = ["mist_preprocess", *study, "--numpy", "{out}", "--num-workers-preprocess", str(workers)]
    score = ["mist_evaluate", "--paths-csv", str(folder / "pairs.csv"), "--output-csv", "{out}/results.csv"]
    score += ["--num-workers-evaluate", str(workers)]
    yield Work("--help", 10, ["mist_train", "--help"])
    yield Work("analyze", 2.5, [*analyze, *study, "--overwrite"])
    yield Work("analyze --data-dump", 3, [*analyze, "--results", "{out}", "--data-dump"])
    yield Work("preprocess", 3, preprocess)
    yield Work("preprocess --compute-dtms", 3, [*preprocess, "--compute-dtms"])
    yield Work("evaluate, Dice", 4, [*score, "--config", str(folder / "dice.json")])
    yield Work("evaluate, 7 metrics", 5, [*score, "--config", str(folder / "seven.json")])
    yield Work(
        "postprocess",
        8,
        [
            *("mist_postprocess", "--base-predictions", str(folder / "predictions"), "--output", "{out}"),
            *("--postprocess-strategy", str(folder / "strategy.json"), "--num-workers-postprocess", str(workers)),
        ],
    )
    tables = [str(folder / f"table_{number}.csv") for number in range(3)]
    yield Work("rank", 2, ["mist_rank", "--results", *tables, "--output-csv", "{out}/ranking.csv"])
    if decathlon:
        yield Work("convert_msd", 4, ["mist_convert_msd", "--source", str(decathlon), "--output", "{out}"])


def _inputs(folder: Path, patients: int, size: tuple[int, int, int]) -> Path:
    """Write what the commands read, and return its folder."""
    _write_patients(folder / "data", patients, size)
    (folder / "predictions").mkdir()
    rows = []
    for mask in sorted((folder / "data").glob("train/*/mask.nii.gz")):
        labels, geometry = read_labels(mask)
        prediction = folder / "predictions" / f"{mask.parent.name}.nii.gz"
        write_labels(prediction, np.roll(labels, (1, 1), (0, 1)), geometry)
        rows.append((mask.parent.name, mask, prediction))
    _write(folder / "pairs.csv", ("id", "mask", "prediction"), rows)
    for name, metrics in (("dice", SEVEN[:1]), ("seven", SEVEN)):
        wanted: dict[str, dict[str, object]] = {metric: {} for metric in metrics}
        evaluation = {key: {"labels": labels, "metrics": wanted} for key, labels in CLASSES.items()}
        (folder / f"{name}.json").write_text(json.dumps({"evaluation": evaluation}))
    (folder / "strategy.json").write_text(json.dumps(STRATEGY))
    generator = np.random.default_rng(0)
    for number in range(3):
        scores = [
            (f"p{place}", f"{dice:.3f}", f"{10 - 10 * dice:.2f}") for place, dice in enumerate(generator.random(100))
        ]
        _write(folder / f"table_{number}.csv", ("id", "core_dice", "core_haus95"), scores)
    return folder


def _write_patients(folder: Path, patients: int, size: Size) -> None:
    for number in range(patients):
        made = phantom((0, number), size, varied=False)
        patient = folder / "train" / f"phantom_{number + 1:03d}"
        corners = np.meshgrid(*(np.linspace(-1, 1, voxels) for voxels in size), indexing="ij", sparse=True)
        head = sum(np.square(along) for along in corners) < 0.84**2
        for name, shares in CHANNELS.items():
            mixed = sum(share * image for share, image in zip(shares, made.channels.values(), strict=True))
            write_labels(patient / f"{name}.nii.gz", np.where(head, np.rint(mixed), 0).astype(np.int32), made.geometry)
        # The upper half of the core is a label of its own.
        upper = (made.labels > LESION) & (np.arange(size[2]) > size[2] // 2)
        write_labels(patient / "mask.nii.gz", np.where(upper, 3, np.array([0, 2, 1])[made.labels]), made.geometry)
    dataset = {
        "task": "phantoms",
        "modality": "mr",
        "train-data": "train",
        "mask": ["mask.nii.gz"],
        "images": {name: [f"{name}.nii.gz"] for name in CHANNELS},
        "labels": [0, 1, 2, 3],
        "final_classes": CLASSES,
    }
    write_json(folder / "dataset.json", dataset)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def _median(side: Path, folder: Path, work: Work, repeats: int) -> Cost:
    costs = []
    for number in range(repeats + 1):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [argument.format(out=out, side=folder) for argument in work.command]
        found = cost([str(side / command[0]), *command[1:]], threads=1)
        costs += [found] if number else []  # the first one reads from disk
    return Cost(statistics.median(found.wall for found in costs), statistics.median(found.cpu for found in costs))


def _row(table: Table, work: Work, costs: Sequence[Cost]) -> None:
    numbers = [f"{seconds:.2f}" for found in costs for seconds in (found.cpu, found.wall)]
    ratios = [f"{costs[1].cpu / costs[0].cpu:.1f}", f"{costs[1].wall / costs[0].wall:.1f}"] if len(costs) > 1 else []
    table.add_row(work.name, *numbers, *ratios, *[""] * (6 - len(numbers) - len(ratios)), f"{work.goal:g}")


if __name__ == "__main__":
    main()
