"""``--no-figures``: the same results without pictures, also without those of earlier results."""

import shutil
from pathlib import Path

from mist_dagster import cli
from mist_ops.files import file_hash
from mist_ops.study import Study


def figures_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.png"))


def test_scores_are_the_same_without_their_figure(copied_study: Study, tmp_path: Path) -> None:
    flags = ["--config", str(copied_study.config), "--paths-csv", str(copied_study.evaluation_paths)]
    output = tmp_path / "out" / "scores.csv"
    assert cli.evaluate([*flags, "--output-csv", str(output)]) == 0
    assert figures_in(output.parent) == ["scores_scores.png"]
    before = file_hash(output)
    assert cli.evaluate([*flags, "--output-csv", str(output), "--no-figures"]) == 0
    assert figures_in(output.parent) == []
    assert file_hash(output) == before


def test_a_ranking_is_the_same_without_its_figure(copied_study: Study, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    shutil.copy(copied_study.results_csv, other)
    flags = ["--results", str(copied_study.results_csv), str(other), "--output-csv", str(tmp_path / "out" / "r.csv")]
    assert cli.rank(flags) == 0
    assert figures_in(tmp_path / "out") == ["r.png"]
    assert cli.rank([*flags, "--no-figures"]) == 0
    assert figures_in(tmp_path / "out") == []


def test_a_training_without_figures_removes_those_of_what_it_replaces(copied_study: Study) -> None:
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy), "--device", "cpu"]
    before = set(figures_in(copied_study.results))
    flags = ["--folds", "0", "--overwrite", "--epochs", "2", "--no-figures"]
    assert cli.train([*where, *flags]) == 0
    removed = before - set(figures_in(copied_study.results))
    assert {"learning_curves_fold_0.png", "scores.png"} <= removed
    assert {name for name in removed if name.startswith("cv_")}
    assert "learning_curves_fold_1.png" not in removed
    page = copied_study.patient_index.read_text(encoding="utf-8")
    assert "scores.png" not in page
