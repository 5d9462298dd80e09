"""Time ``mist_predict`` and compare it with that of MIST: the same weights, cases and flips.

python bench/prediction.py --results /path/to/results --paths-csv cases.csv --reference /path/to/environment/bin/python

Set ``training.amp`` in config.json: MIST, which does not use it without a GPU, switches it off there.
Each side predicts one case and then several; the difference is the time of the other cases, without start-up. All
weights in the models folder are used. Those of ``nnunet`` and ``nnunet-pocket`` may come from MIST.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timing import Cost, cost


def main() -> None:
    """Time both sides and print seconds per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results folder of a study with models")
    parser.add_argument("--paths-csv", type=Path, required=True, help="cases to predict")
    parser.add_argument("--cases", type=int, default=6, help="number of timed cases")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    sides = {"mist-dagster": Path(sys.executable).parent}
    if options.reference is not None:
        sides["MIST"] = options.reference.parent
    costs = {side: _per_case(folder / "mist_predict", options) for side, folder in sides.items()}
    table = Table("side", "s/case", "CPU s/case", "wall ratio", "CPU ratio")
    for side, seconds in costs.items():
        ratios = [f"{ours / theirs:.2f}" for ours, theirs in zip(costs["mist-dagster"], seconds, strict=True)]
        table.add_row(side, *(f"{value:.2f}" for value in seconds), *(ratios if side == "MIST" else ("", "")))
    Console(width=100).print(table)


def _per_case(command: Path, options: argparse.Namespace) -> Cost:
    one, several = (_predicted(command, cases, options) for cases in (1, 1 + options.cases))
    return Cost(*((long - short) / options.cases for short, long in zip(one, several, strict=True)))


def _predicted(command: Path, cases: int, options: argparse.Namespace) -> Cost:
    with options.paths_csv.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if len(rows) < cases:
        raise SystemExit(f"{options.paths_csv} lists {len(rows)} cases, but {cases} are needed. Lower --cases.")
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "paths.csv"
        with paths.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows[:cases]])
        inputs = ["--models-dir", str(options.results / "models"), "--config", str(options.results / "config.json")]
        outputs = ["--paths-csv", str(paths), "--output", f"{folder}/masks", "--device", "cpu"]
        return cost([str(command), *inputs, *outputs], options.threads)


if __name__ == "__main__":
    main()
