"""The whole pipeline on synthetic patients, for ``make demo``. All files are written to ``./demo``.

A second run continues where the first one stopped; remove the folder to start over.
"""

import csv
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mist_dagster import cli
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.files import atomic
from mist_ops.phantoms import write_phantoms
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

FOLDER = Path("demo")
PATIENTS, TESTS, FOLDS = 6, 1, 2
COLUMNS = 3

SETTINGS: Mapping[str, object] = {
    "model.architecture": "nnunet-pocket",
    "spatial_config.patch_size": [32, 32, 16],
    "training.epochs": 4,
    "training.min_steps_per_epoch": 15,
    "training.learning_rate": 0.003,
    "training.warmup_epochs": 1,
    "training.validation_cases": 1,
    "inference.tta.enabled": False,
}
"""A budget for two cores: 60 steps a fold; a real study takes hundreds of thousands."""


def main() -> int:
    """Run the demo; return the exit status."""
    started, console = time.monotonic(), Console()
    folder = FOLDER.resolve()
    os.environ["DAGSTER_HOME"] = str(folder / "dagster_home")
    study = Study("phantoms", numpy=folder / "numpy", results=folder / "results", data=folder / "data" / "dataset.json")
    failed = run(study)
    if failed:
        return failed
    console.print(results_table(study.results_csv))
    draw(study, folder / "demo.png")
    console.print(f"Done in {time.monotonic() - started:.0f} s. Slices and learning curves: {FOLDER / 'demo.png'}")
    console.print(f"See all of it in the browser: [bold]DAGSTER_HOME={FOLDER / 'dagster_home'} make ui[/bold]")
    return 0


def run(study: Study) -> int:
    """Write synthetic patients and run the commands from analysis to evaluation."""
    assert study.data is not None
    if not study.data.exists():
        write_phantoms(study.data.parent, patients=PATIENTS, tests=TESTS)
    where = ["--results", str(study.results), "--study", study.name]
    if not study.config.exists():
        failed = cli.analyze(["--data", str(study.data), "--nfolds", str(FOLDS), *where])
        if failed:
            return failed
        write_config(study.config, override(read_config(study.config), SETTINGS))
    return cli.run_all(["--data", str(study.data), "--numpy", str(study.numpy), *where, "--resume"])


def results_table(path: Path) -> Table:
    """results.csv as a table for the terminal, its summary rows below a line."""
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    table = Table(title="Cross-validation scores (each patient held out from its model)", title_justify="left")
    for name in header:
        table.add_column("\n".join(name.rsplit("_", 1)), justify="left" if name == "id" else "right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends_section = following is None or following[0] == "Mean"
        table.add_row(row[0], *(f"{float(value):.3f}" for value in row[1:]), end_section=ends_section)
    return table


def draw(study: Study, path: Path) -> None:
    """Draw each patient's slices with truth and prediction, and the learning curves, in one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    ids = sorted(case.id for case in read_train_paths(study.train_paths).cases)
    below = "learning curves"
    rows = [*(ids[start : start + COLUMNS] for start in range(0, len(ids), COLUMNS)), [below] * COLUMNS]
    mosaic: list[Any] = [row + ["."] * (COLUMNS - len(row)) for row in rows]
    heights = [1.0] * (len(mosaic) - 1) + [2.0]
    size = (5 * COLUMNS, 2.4 * sum(heights))
    figure, axes = plt.subplot_mosaic(mosaic, figsize=size, height_ratios=heights, layout="constrained")
    for name, axis in axes.items():
        axis.imshow(plt.imread(_curves(study) if name == below else study.figure(f"cv_{name}")))
        axis.set_axis_off()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _curves(study: Study) -> Path:
    from mist_ops.pictures import learning_curves

    folds = read_config(study.config).training.folds
    path = study.figure("learning_curves")
    learning_curves(path, {fold: read_passport(study.model(fold)).history for fold in folds})
    return path


if __name__ == "__main__":
    sys.exit(main())
