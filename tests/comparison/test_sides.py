"""Sides of a comparison: which tables are runs of one method, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refuses
from records.passports import passport
from training.small_study import small_config

from mist_ops.comparison.compare import compare
from mist_ops.comparison.report import check_output, facts_path, notes, read_lines, rows, write_comparison
from mist_ops.comparison.sides import open_side, tables_of
from mist_ops.errors import ConfigError, DatasetError
from mist_ops.files import write_json
from mist_ops.records.passport import write_passport
from mist_ops.study import Study

IDS = [f"p{number:02d}" for number in range(20)]


def table(path: Path, seed: int, gain: float = 0.0, ids: list[str] = IDS, **columns: float) -> Path:
    """A table of Dice and of a distance; the same patients are easy in all tables."""
    generator, patients = np.random.default_rng(seed), np.random.default_rng(0).uniform(0.6, 0.8, len(ids))
    dice = patients + gain + generator.normal(0, 0.004) + generator.normal(0, 0.01, len(ids))
    distance = 5 + generator.normal(0, 1, len(ids))
    lines = [f"{name},{one:.5f},{other:.4f}" for name, one, other in zip(ids, dice, distance, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["id,lesion_dice,lesion_haus95", *lines, "Mean,0.7,5", "Std,0,0", "Median,0,0"]) + "\n")
    return path


def study(folder: Path, gain: float = 0.0, first: int = 1) -> Path:
    """A results folder with two replicas."""
    table(folder / "results.csv", first, gain)
    for seed in (7, 8):
        table(folder / "replicas" / f"seed_{seed}" / "results.csv", first + seed, gain)
        write_json(folder / "replicas" / f"seed_{seed}" / "config.json", {"replica": {"seed": seed}})
    return folder


def trained(results: Path, weights: str, **changes: Any) -> None:
    """A passport beside the scores of a run."""
    folder = Study("", results, results).models
    folder.mkdir(parents=True)
    write_passport(folder / "fold_0.json", passport(weights=weights, **changes))


def test_a_folder_stands_for_a_study_and_its_replicas(tmp_path: Path) -> None:
    found = tables_of(str(study(tmp_path / "a")))
    folders = [path.parent.relative_to(tmp_path).as_posix() for path in found]
    assert folders == ["a", "a/replicas/seed_7", "a/replicas/seed_8"]


def test_tables_of_a_side_are_separated_by_commas_unless_a_name_has_one(tmp_path: Path) -> None:
    one, two, odd = (table(tmp_path / name, 1) for name in ("1.csv", "2.csv", "a,b.csv"))
    assert tables_of(f"{one},{two}") == [one, two]
    assert tables_of(str(odd)) == [odd]


def test_b_is_better_in_dice_and_not_distinguishable_in_distance(tmp_path: Path) -> None:
    sides = [
        open_side(name, tables_of(str(study(tmp_path / name, gain, first))))
        for name, gain, first in (("a", 0.0, 1), ("b", 0.05, 50))
    ]
    [pair] = compare(sides)
    dice, distance = pair.verdicts
    assert (dice.word, distance.word) == ("better", "not distinguishable")
    assert dice.difference.runs == (3, 3)
    assert dice.better == len(IDS)
    assert dice.corrected == pytest.approx(2 * (dice.difference.p or 0))  # Holm: of two, the smaller
    assert distance.more_runs is None or distance.more_runs > 0
    write_comparison(tmp_path / "out" / "c.csv", [pair])
    assert [row["verdict"] for row in rows([pair])] == ["better", "not distinguishable"]
    assert read_lines(tmp_path / "out" / "c.csv")[0].startswith("lesion_dice: b is better than a: +0.0")
    [worse] = compare(sides[::-1])
    assert worse.verdicts[0].word == "worse"


def test_more_methods_are_each_compared_with_the_first_and_corrected_together(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    sides = [
        open_side(name, tables_of(str(study(tmp_path / name, 0.0, 40 * place)))) for place, name in enumerate(names)
    ]
    pairs = compare(sides)
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [("a", "b"), ("a", "c")]
    smallest = min((verdict for pair in pairs for verdict in pair.verdicts), key=lambda each: each.difference.p or 1)
    assert smallest.corrected == pytest.approx(min(1, 4 * (smallest.difference.p or 1)))


def test_single_runs_get_a_verdict_only_with_noise_from_elsewhere(tmp_path: Path) -> None:
    one, two = (
        open_side(name, [table(tmp_path / f"{name}.csv", n, g)]) for name, n, g in (("a", 1, 0.0), ("b", 2, 0.2))
    )
    [pair] = compare([one, two])
    assert (pair.verdicts[0].word, pair.verdicts[0].corrected) == ("not distinguishable", None)
    assert "train replicas" in pair.verdicts[0].advice
    extra = open_side("noise", tables_of(str(study(tmp_path / "other", 0.0, 60))))
    [pair] = compare([one, two], extra)
    assert pair.verdicts[0].word == "better"
    assert pair.verdicts[0].noise_from == ("noise",)
    assert "is taken from noise" in " ".join(notes([pair], extra))


def test_patients_without_a_score_in_a_run_are_excluded_and_named(tmp_path: Path) -> None:
    first = study(tmp_path / "a")
    lines = (first / "results.csv").read_text().splitlines()
    (first / "results.csv").write_text("\n".join("p03,," if "p03" in line else line for line in lines) + "\n")
    other = open_side("b", tables_of(str(study(tmp_path / "b", first=30))))
    [pair] = compare([open_side("a", tables_of(str(first))), other])
    assert pair.left_out["lesion_dice"] == ("p03",)
    assert len(pair.verdicts[0].by_patient) == len(IDS) - 1
    assert "1 patient (p03)" in " ".join(notes([pair]))


def test_a_replica_that_is_not_complete_is_skipped_with_a_reason(tmp_path: Path) -> None:
    folder = study(tmp_path / "a")
    table(folder / "replicas" / "seed_9" / "results.csv", 9, ids=IDS[:5])
    write_json(folder / "replicas" / "seed_9" / "config.json", {"replica": {"seed": 9}})
    side = open_side("a", tables_of(str(folder)))
    assert len(side.runs) == 3
    assert list(side.skipped.values()) == ["it has scores of 5 of 20 patients"]


def test_runs_of_the_same_models_or_of_other_settings_are_refused(tmp_path: Path) -> None:
    folder = study(tmp_path / "a")
    trained(folder, "w")
    trained(folder / "replicas" / "seed_7", "w")
    with refuses("run-duplicate", ConfigError):
        open_side("a", tables_of(str(folder)))
    one = table(tmp_path / "one.csv", 1)
    with refuses("run-duplicate", ConfigError):
        open_side("a", [one, one])


def test_a_replica_of_other_settings_than_the_seed_is_refused(tmp_path: Path) -> None:
    folder = study(tmp_path / "a")
    trained(folder, "w", config=small_config().model_dump(mode="json"))
    trained(folder / "replicas" / "seed_7", "x", config=small_config(seed=7).model_dump(mode="json"), seed=7)
    assert len(open_side("a", tables_of(str(folder))).runs) == 3
    trained(folder / "replicas" / "seed_8", "y", config=small_config(seed=8, epochs=9).model_dump(mode="json"), seed=8)
    with refuses("runs-differ", ConfigError, names="epochs was 3 and is 9"):
        open_side("a", tables_of(str(folder)))


def test_refusals_name_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refuses("scores-missing", ConfigError, file=tmp_path / "empty" / "results.csv"):
        tables_of(str(tmp_path / "empty"))
    with refuses("table-missing", ConfigError, names="gone.csv"):
        tables_of(f"{table(tmp_path / 'a.csv', 1)},{tmp_path / 'gone.csv'}")
    (tmp_path / "odd.csv").write_text("id,beauty\np1,3\n")
    with refuses("columns-unknown", DatasetError, file=tmp_path / "odd.csv"):
        open_side("odd", [tmp_path / "odd.csv"])
    one = open_side("a", [tmp_path / "a.csv"])
    others = open_side("b", [table(tmp_path / "b.csv", 2, ids=["x", "y"])])
    with refuses("nothing-shared", DatasetError):
        compare([one, others])
    with refuses("run-shared", DatasetError):
        compare([one, open_side("b", [tmp_path / "a.csv"])])
    with refuses("output-is-input", ConfigError):
        check_output(tmp_path / "a.csv", [tmp_path / "a.csv"])
    with refuses("output-is-input", ConfigError):
        check_output(tmp_path / "c.csv", [facts_path(tmp_path / "c.csv")])
