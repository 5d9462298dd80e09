"""Time the start-up of commands and compare it with MIST: `--help` of each, and a whole ranking of three tables.

python bench/startup.py --reference /path/to/environment/bin/python
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import Cost, cost

COMMANDS = (
    "analyze",
    "preprocess",
    "train",
    "run_all",
    "predict",
    "finalize",
    "evaluate",
    "rank",
    "postprocess",
    "ensemble",
    "convert_msd",
    "convert_nnunet",
    "convert_csv",
    "average_weights",
)
RANKED, PATIENTS = 3, 100


def main() -> None:
    """Time both sides and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    sides = [Path(sys.executable).parent, *([options.reference.parent] if options.reference else [])]
    table = Table("command", "s", "CPU s", "MIST s", "MIST CPU s", "ratio")
    for command in COMMANDS:
        _row(
            table,
            f"mist_{command} --help",
            [_fastest([str(side / f"mist_{command}"), "--help"], options.repeats) for side in sides],
        )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAGSTER_HOME"] = f"{folder}/dagster_home"
        scores = _tables(Path(folder))
        ranking = ["--results", *scores, "--output-csv", f"{folder}/ranking.csv"]
        cost([str(sides[0] / "mist_rank"), *ranking], threads=1)  # creates DAGSTER_HOME
        _row(
            table,
            "mist_rank of three tables",
            [_fastest([str(side / "mist_rank"), *ranking], options.repeats) for side in sides],
        )
    Console().print(table)


def _fastest(command: list[str], repeats: int) -> Cost:
    return min((cost(command, threads=1) for _ in range(repeats)), key=lambda found: found.cpu)


def _row(table: Table, name: str, costs: list[Cost]) -> None:
    numbers = [f"{seconds:.2f}" for found in costs for seconds in found]
    ratio = f"{costs[0].wall / costs[1].wall:.2f}" if len(costs) > 1 else ""
    table.add_row(name, *numbers, *[""] * (4 - len(numbers)), ratio)


def _tables(folder: Path) -> list[str]:
    generator, paths = np.random.default_rng(0), []
    for name in range(RANKED):
        rows = [f"p{number},{dice:.3f},{10 * (1 - dice):.2f}" for number, dice in enumerate(generator.random(PATIENTS))]
        paths.append(folder / f"model_{name}.csv")
        paths[-1].write_text("\n".join(["id,WT_dice,WT_haus95", *rows]) + "\n")
    return [str(path) for path in paths]


if __name__ == "__main__":
    main()
