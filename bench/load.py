"""Memory of each command as a function of the number of patients.

python bench/load.py --patients 500 2000

Each command runs once for few and once for many patients, in a separate process, on small phantoms that differ in a
voxel. The peak is that of the largest process, which is the command itself with one worker.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from mist_ops.evaluation.table import Pair, write_pairs
from mist_ops.phantoms import write_phantoms

SIZE = (22, 24, 20)
STRATEGIES, VARIANTS = ("first", "second"), 8
"""Ranked tables, and number of distinct prediction masks of each."""


class Load(NamedTuple):
    """Wall seconds, CPU seconds and peak MiB of a command."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    """Run the commands and print their time, peak memory and memory per patient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs=2, default=(500, 2000), metavar=("FEW", "MANY"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    few, many = options.patients
    loads = [_loads(patients, options.workers) for patients in (few, many)]
    table = Table(
        "command", *(f"{what}, {count}" for count in (few, many) for what in ("s", "CPU s", "MiB")), "KiB per patient"
    )
    for command, first in loads[0].items():
        last = loads[1][command]
        table.add_row(
            f"mist_{command}",
            *(f"{value:.1f}" for load in (first, last) for value in load),
            f"{1024 * (last.peak - first.peak) / (many - few):.1f}",
        )
    Console().print(table)


def _loads(patients: int, workers: int) -> dict[str, Load]:
    with tempfile.TemporaryDirectory() as folder:
        _write_patients(Path(folder), patients)
        # The dictionary keeps the second of the two evaluations.
        return {command: _load(Path(folder), command, arguments) for command, arguments in _commands(workers)}


def _commands(workers: int) -> Iterator[tuple[str, list[str]]]:
    yield "analyze", ["--data", "data/dataset.json", "--num-workers-analyze", str(workers)]
    yield "preprocess", ["--num-workers-preprocess", str(workers)]
    yield "status", []
    scored = [f"{name}_scores.csv" for name in STRATEGIES]
    for name, scores in zip(STRATEGIES, scored, strict=True):
        paths = ["--config", "results/config.json", "--paths-csv", f"{name}.csv", "--output-csv", scores]
        yield "evaluate", [*paths, "--num-workers-evaluate", str(workers)]
    yield "rank", ["--results", *scored, "--output-csv", "ranking.csv"]


def _write_patients(folder: Path, patients: int) -> None:
    """Write patients that differ in a voxel of the first channel, and predictions that differ from the mask in 20."""
    data = write_phantoms(folder / "data", patients=1, size=SIZE)
    (first,) = (data.parent / "train").iterdir()
    scan = nib.load(first / "t1.nii.gz")
    voxels = np.asanyarray(scan.dataobj)
    folders = [first, *(first.with_name(f"phantom_{number:05}") for number in range(2, patients + 1))]
    for number, patient in enumerate(folders[1:], start=1):
        patient.mkdir()
        own = voxels.copy()
        own.flat[number % own.size] += number
        nib.save(nib.Nifti1Image(own, scan.affine, scan.header), patient / "t1.nii.gz")
        for name in ("t2.nii.gz", "mask.nii.gz"):
            os.link(first / name, patient / name)
    for seed, name in enumerate(STRATEGIES):
        drawn = _predictions(folder / name, first / "mask.nii.gz", seed)
        masks = [(patient.name, patient / "mask.nii.gz") for patient in folders]
        pairs = [Pair(case_id, mask, drawn[index % VARIANTS]) for index, (case_id, mask) in enumerate(masks)]
        write_pairs(folder / f"{name}.csv", pairs)


def _predictions(folder: Path, mask: Path, seed: int) -> list[Path]:
    folder.mkdir()
    generator, truth = np.random.default_rng(seed), nib.load(mask)
    paths = [folder / f"{variant}.nii.gz" for variant in range(VARIANTS)]
    for path in paths:
        labels = np.asanyarray(truth.dataobj).copy()
        labels.flat[generator.choice(labels.size, 20, replace=False)] = 1
        nib.save(nib.Nifti1Image(labels, truth.affine, truth.header), path)
    return paths


def _load(folder: Path, command: str, arguments: list[str]) -> Load:
    environment = {**os.environ, "DAGSTER_HOME": str(folder / "dagster_home"), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with (folder / "output").open("w+b") as output:
        program = str(Path(sys.executable).parent / f"mist_{command}")
        process = subprocess.Popen([program, *arguments], cwd=folder, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"mist_{command} failed:\n{output.read()[-4000:].decode()}")
    return Load(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
