"""What the guard of a study notices, on patients that were kept apart and on training patients judged by the others.

python bench/guard.py --results /path/to/results --labels /path/to/masks --output folder

The study needs models of all folds and test patients; the folder has the mask of each test patient, ``<id>.nii.gz``.
Damages of stated strengths are planted. Printed for each kind: AUROC against the scans as they are,
the share noticed at the limit of the guard, and how far the expected Dice is off. ``--test-time-flips`` keeps the flips
of the study's predictions; without it they are predicted once, which takes an eighth of the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mist_ops.config import StudyConfig, override, read_config, write_config
from mist_ops.dataset import Case, read_paths
from mist_ops.files import file_hash
from mist_ops.guard import damage
from mist_ops.guard.certainty import Certainty
from mist_ops.guard.damage import Damage, Scan
from mist_ops.guard.forecast import Sample, left_out_dice
from mist_ops.guard.novelty import bound, score
from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.inference import guard_study
from mist_ops.inference.case import Predictor, predict_prepared, prepare
from mist_ops.inference.guard_study import build, classes_of, dice_of, learn, scan_patients, write_scan
from mist_ops.inference.guarding import Guarding, certainty_of, measured
from mist_ops.inference.models import load_models
from mist_ops.records.guard import write_guard
from mist_ops.study import Study

CPU = torch.device("cpu")
CLEAN = ""

STRENGTHS: Mapping[str, Damage] = {
    "inverted contrast": damage.inverted,
    "T2-like contrast": damage.other_contrast,
    "spacing x 1.5": partial(damage.wrong_spacing, factor=1.5),
    "flipped left-right": partial(damage.mirrored, axis=0),
    "flipped front-back": partial(damage.mirrored, axis=1),
    "flipped bottom-top": partial(damage.mirrored, axis=2),
    "cropped by 25 %": partial(damage.cropped, share=0.25),
    "noise of 10 %": partial(damage.noisy, level=0.1),
    "shading 1:2": partial(damage.biased, ratio=2.0),
    "shading 1:4": partial(damage.biased, ratio=4.0),
    "noise of 20 %": partial(damage.noisy, level=0.2),
    "spacing x 0.67": partial(damage.wrong_spacing, factor=2 / 3),
    "cropped by 10 %": partial(damage.cropped, share=0.1),
    "noise of 5 %": partial(damage.noisy, level=0.05),
}
"""Noise in percent of the range of intensities, shading from one end to the other in a random direction."""


def main() -> None:
    """Build the guard, plant damages on the test patients, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, required=True, help="results of a copy of a study; config.json may change"
    )
    parser.add_argument("--labels", type=Path, required=True, help="folder with the masks of the test patients")
    parser.add_argument("--output", type=Path, required=True, help="folder for the rows that the tables are made from")
    parser.add_argument(
        "--damages", type=int, default=len(STRENGTHS), help="damages of a training patient, in rotation"
    )
    parser.add_argument("--test-time-flips", action="store_true")
    options = parser.parse_args()
    study = Study("bench", options.results.parent / "numpy", options.results)
    if not options.test_time_flips:
        write_config(study.config, override(read_config(study.config), {"inference.tta.enabled": False}))
    options.output.mkdir(parents=True, exist_ok=True)
    rows = options.output / "training.json"
    if not rows.exists():
        rows.write_text(json.dumps(_training(study, options.damages)))
    tests = options.output / "tests.jsonl"
    _append_tests(study, options.labels, tests)
    known = json.loads(rows.read_text())
    usual = [row["score"] for row in known if row["kind"] == CLEAN]
    limit = known[0]["limit"]
    _print("Training patients, each judged by the others", known, usual, limit)
    found = [json.loads(line) for line in tests.read_text().splitlines()]
    _print("Test patients", found, [*usual, *(row["score"] for row in found if row["kind"] == CLEAN)], limit)


def _training(study: Study, damages: int) -> list[dict[str, Any]]:
    """Build the guard, with some damages planted on every training patient."""
    guard_study.MOST_DAMAGED = sys.maxsize
    guard_study.damages = lambda channels: STRENGTHS
    scanned = {}
    for outcome in scan_patients(study, CPU, damages):
        if outcome.error:
            raise outcome.error
        scanned[outcome.item.id] = outcome.result or []
        Console(stderr=True).print(f"{len(scanned)}: {outcome.item.id}")
    write_guard(study.guard, build(study, scanned))
    novelty, samples = learn(scanned)
    expected = {name: left_out_dice(samples, name) for name in samples[0].dice}
    return [
        _row(sample, novelty.threshold, {name: expected[name][index] for name in expected})
        for index, sample in enumerate(samples)
    ]


def _row(sample: Sample, limit: float, expected: Mapping[str, float]) -> dict[str, Any]:
    return {
        "patient": sample.patient,
        "kind": sample.damage,
        "score": score(sample.novelty),
        "novelty": dict(sample.novelty),
        "certainty": dict(sample.certainty),
        "limit": limit,
        "dice": dict(sample.dice),
        "expected": dict(expected),
    }


def _append_tests(study: Study, labels: Path, rows: Path) -> None:
    """Predict each test patient by all folds, as it is and with every damage; what is in the file is kept."""
    config = read_config(study.config)
    models = {fold: file_hash(study.model(fold)) for fold in config.training.folds}
    guarding = Guarding.open(study.guard, models, config)
    predictor = Predictor(load_models(study, config), config, CPU)
    done = (
        {(row["patient"], row["kind"]) for row in map(json.loads, rows.read_text().splitlines())}
        if rows.exists()
        else ()
    )
    cases = read_paths(study.test_paths, config.dataset_info.images)
    with rows.open("a") as stream:
        for kind, case in product((CLEAN, *STRENGTHS), cases):
            if (case.id, kind) in done:
                continue
            generator = np.random.default_rng([*case.id.encode(), *kind.encode()])
            scan = _read(case, labels / f"{case.id}.nii.gz")
            changed = STRENGTHS[kind](scan, generator) if kind else scan
            stream.write(json.dumps(_predicted(guarding, predictor, case.id, kind, changed, config)) + "\n")
            stream.flush()


def _read(case: Case, mask: Path) -> Scan:
    images = {name: read_image(path) for name, path in case.images.items()}
    grid = next(iter(images.values()))[1]
    return Scan({name: image for name, (image, _) in images.items()}, read_labels(mask)[0], grid)


def _predicted(
    guarding: Guarding, predictor: Predictor, case_id: str, kind: str, scan: Scan, config: StudyConfig
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        case: Case = write_scan(scan, case_id, Path(folder))
        prepared = prepare(config, case)
    seen = Certainty(prepared.geometry.preprocessed.size)
    labels = predict_prepared(predictor, prepared, watch=seen)
    verdict = guarding.verdict(measured(prepared, seen, config), seen)
    return {
        "patient": case_id,
        "kind": kind,
        "score": verdict.score,
        "novelty": dict(verdict.novelty),
        "certainty": certainty_of(classes_of(config), seen, config.dataset_info.labels),
        "limit": verdict.threshold,
        "dice": {name: dice_of(scan.labels, labels, members) for name, members in classes_of(config).items()},
        "expected": {name: expected.dice for name, expected in verdict.dice.items()},
        "interval": {name: [expected.low, expected.high] for name, expected in verdict.dice.items()},
        "reasons": verdict.reasons,
    }


def _print(title: str, rows: Sequence[Mapping[str, Any]], usual: Sequence[float], limit: float) -> None:
    table = Table("damage", "scans", "AUROC", "noticed", "Dice", "expected off", "absolute", "in interval", title=title)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        scores = np.array([row["score"] for row in own])
        area = (scores[:, None] > np.array(usual)[None]).mean() + 0.5 * (
            scores[:, None] == np.array(usual)[None]
        ).mean()
        errors = np.array([[row["expected"][name] - row["dice"][name] for name in row["dice"]] for row in own])
        inside = [
            low <= row["dice"][name] <= high for row in own for name, (low, high) in row.get("interval", {}).items()
        ]
        noticed = int((scores > limit).sum())
        table.add_row(
            kind or f"none (at most {bound(noticed, len(own)):.1%} false alarms)",
            str(len(own)),
            "" if kind == CLEAN else f"{area:.3f}",
            str(noticed),
            f"{np.mean([list(row['dice'].values()) for row in own]):.3f}",
            f"{errors.mean():+.3f}",
            f"{np.abs(errors).mean():.3f}",
            f"{np.mean(inside):.2f}" if inside else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
