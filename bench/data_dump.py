"""Time the data dump, and that of MIST with --reference.

python bench/data_dump.py --data Task04_Hippocampus --reference /path/to/environment/bin/python
python bench/data_dump.py --image ct.nii.gz --mask segmentation.nii.gz --reference /path/to/environment/bin/python

CPU seconds in one process without imports, minimum of several runs. Both sides read the same images, config.json and
train_paths.csv. MIST samples at most 10000 voxels of a label and 5000 to 9999 intensities of a case; we use all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mist_ops.analysis.analyze import analyze
from mist_ops.analysis.report import data_dump
from mist_ops.conversion.csv import convert_csv
from mist_ops.conversion.msd import convert_msd
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

REFERENCE = """
import json, sys, time
import pandas
from mist.analyze_data.data_dumper import DataDumper
data, results, repeats = sys.argv[1:]
config, dataset = json.load(open(results + "/config.json")), json.load(open(data))
seconds = []
for _ in range(int(repeats)):
    table = pandas.read_csv(results + "/train_paths.csv")
    began = time.process_time()
    DataDumper(table, dataset, config, results).run()
    seconds.append(time.process_time() - began)
print("seconds", min(seconds))
"""


def main() -> None:
    """Time both sides and print CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a Decathlon task")
    parser.add_argument("--image", type=Path, help="a CT, used as two cases")
    parser.add_argument("--mask", type=Path, help="its mask; with --image")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        default=(160, 192, 128),
        help="voxels of phantoms, if no data are given",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = _dataset(options, Path(folder) / "data")
        study = Study("bench", numpy=Path(folder), results=Path(folder) / "results", data=data)
        cases = len(list(analyze(study, overrides={"training.nfolds": 2, "training.folds": [0]})))
        ours = min(_ours(study) for _ in range(options.repeats))
        table = Table("", "CPU s", "CPU ms per case", title=f"Data dump of {cases} cases")
        table.add_row("mist-dagster", f"{ours:.3f}", f"{ours / cases * 1e3:.1f}")
        if options.reference:
            theirs = _theirs(options.reference, data, study.results, options.repeats)
            table.add_row("MIST 2.3.0", f"{theirs:.3f}", f"{theirs / cases * 1e3:.1f}")
            table.add_row("ratio", f"{theirs / ours:.1f}", "")
    Console().print(table)


def _dataset(options: argparse.Namespace, folder: Path) -> Path:
    data = folder / "dataset.json"
    if options.data:
        list(convert_msd(options.data, folder))
    elif options.image:
        table = folder.with_name("cases.csv")
        table.write_text(f"id,mask,CT\n1,{options.mask},{options.image}\n2,{options.mask},{options.image}\n")
        list(convert_csv(table, None, folder))
    else:
        write_phantoms(folder, patients=2, size=tuple(options.size))
    described = json.loads(data.read_text())
    # Required by MIST.
    described["final_classes"] = {f"label_{label}": [label] for label in described["labels"] if label}
    known = {name: value for name, value in described.items() if value is not None}
    data.write_text(json.dumps({"task": "CT", "modality": "ct", **known}))
    return data


def _ours(study: Study) -> float:
    began = time.process_time()
    list(data_dump(study))
    return time.process_time() - began


def _theirs(python: Path, data: Path, results: Path, repeats: int) -> float:
    command = [str(python), "-c", REFERENCE, str(data), str(results), str(repeats)]
    alone = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env={**os.environ, **alone}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"MIST failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return float(done.stdout.rsplit("seconds", 1)[1])


if __name__ == "__main__":
    main()
