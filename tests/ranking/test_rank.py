from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from mist_ops.errors import ConfigError, DatasetError
from mist_ops.ranking.rank import check_outputs, rank, read_directions, write_ranking
from mist_ops.ranking.ranks import directions, rank_cells
from mist_ops.ranking.significance import holm, significance_table
from mist_ops.ranking.tables import default_names, read_scores
from mist_ops.tables import SUMMARY_ROWS


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text.split()) + "\n")
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two tables; ``a`` is better for p1, as good for p2."""
    return [
        write(tmp_path / "a.csv", "id,WT_dice,WT_haus95 p1,0.9,1 p2,0.5,2"),
        write(tmp_path / "b.csv", "id,WT_dice,WT_haus95 p1,0.8,3 p2,0.5,2"),
    ]


def test_the_golden_tables_are_the_references(shared: Path) -> None:
    golden = shared / "golden" / "rank"
    ranking = rank([golden / f"{name}.csv" for name in "ABC"])
    for found, file in ((ranking.summary, "expected_summary.csv"), (ranking.detailed, "expected_detailed.csv")):
        pd.testing.assert_frame_equal(found, pd.read_csv(golden / file), rtol=0, atol=1e-12)


def test_p_values_are_the_references_but_for_ties_that_it_takes_apart(shared: Path) -> None:
    golden = shared / "golden" / "rank"
    scores = read_scores([golden / f"{name}.csv" for name in "ABC"])
    ranks = rank_cells(scores, directions([str(column) for column in scores.tables["A"]], {}))
    means, found = ranks.mean(axis=2), significance_table(["A", "B", "C"], ranks)
    expected = pd.read_csv(golden / "expected_significance_scipy1.17.csv")
    for row, column in permutations(range(3), 2):
        # Means of ranks differ in the last bit where the ranks add up to the same: 10 sizes of difference instead of 6.
        rounding = wilcoxon(means[row] - means[column], alternative="less").pvalue
        assert rounding == pytest.approx(expected.iat[row, column + 1], abs=1e-9)
        whole = np.rint(6 * (means[row] - means[column])).astype(int)
        assert found.iat[row, column + 1] == pytest.approx(wilcoxon(whole, alternative="less").pvalue, abs=1e-12)


def test_ranks_by_hand(two: list[Path]) -> None:
    ranking = rank(two)
    assert ranking.summary.to_dict("list") == {"strategy": ["a", "b"], "average_rank": [1.25, 1.75]}
    assert ranking.detailed["WT_haus95"].tolist() == [1.25, 1.75]


def test_neither_the_order_of_rows_nor_that_of_columns_matters(two: list[Path], tmp_path: Path) -> None:
    shuffled = write(tmp_path / "c.csv", "WT_haus95,id,WT_dice 2,p2,0.5 3,p1,0.8")
    pd.testing.assert_frame_equal(rank(two).detailed, rank([two[0], shuffled], ["a", "b"]).detailed)


def test_summary_rows_at_the_end_are_no_patients(two: list[Path]) -> None:
    plain = rank(two).summary
    for path in two:
        path.write_text(path.read_text() + "".join(f"{name},9,9\n" for name in SUMMARY_ROWS))
    pd.testing.assert_frame_equal(rank(two).summary, plain)


def test_ids_are_text(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "id,C_dice 007,0.5 7,0.1")
    second = write(tmp_path / "b.csv", "id,C_dice 7,0.2 007,0.4")
    assert rank([first, second]).facts["patients"] == 2


def test_scores_that_differ_by_rounding_alone_are_a_tie(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "id,C_dice p,0.3")
    second = write(tmp_path / "b.csv", f"id,C_dice p,{0.1 + 0.2!r}")
    assert rank([first, second]).summary["average_rank"].tolist() == [1.5, 1.5]


def test_a_missing_score_is_an_error_that_names_it(two: list[Path]) -> None:
    write(two[1], "id,WT_dice,WT_haus95 p1,,3")
    with pytest.raises(DatasetError, match=r"(?s)b\.csv: patient 'p1', WT_dice.*patient 'p2', WT_dice, WT_haus95"):
        rank(two)


def test_a_missing_score_ranks_last_even_behind_infinity(tmp_path: Path) -> None:
    tables = [
        write(tmp_path / f"{name}.csv", f"id,C_haus95 p,{value}")
        for name, value in zip("abc", ("inf", "", 1), strict=True)
    ]
    assert rank(tables, missing="worst").summary["strategy"].tolist() == ["c", "a", "b"]


def test_a_patient_with_a_missing_score_can_be_left_out_and_is_named(two: list[Path]) -> None:
    write(two[1], "id,WT_dice,WT_haus95 p1,,3 p2,0.5,2")
    ranking = rank(two, missing="drop")
    assert ranking.summary["average_rank"].tolist() == [1.5, 1.5]
    assert ranking.facts["left_out"] == ["p1"]


@pytest.mark.parametrize(
    "paths, names",
    [
        (["x/a.csv", "y/b.csv"], ["a", "b"]),
        (["x/results.csv", "y/results.csv"], ["x", "y"]),
        (["x/a.csv", "y/a.csv", "y/b.csv"], ["x/a", "y/a", "b"]),
        (["x/m/r.csv", "y/m/r.csv"], ["x/m", "y/m"]),
    ],
)
def test_default_names_tell_the_tables_apart(paths: list[str], names: list[str]) -> None:
    assert default_names([Path("/") / path for path in paths]) == names


def test_the_same_table_twice_is_refused() -> None:
    with pytest.raises(DatasetError, match="given twice"):
        default_names([Path("a.csv"), Path("a.csv")])


@pytest.mark.parametrize(
    "second, words",
    [
        ("id,WT_dice p1,0.8", "'WT_haus95' stands in .*a.csv alone"),
        ("id,WT_dice,WT_haus95 p1,0.8,3 p1,1,1", "the id 'p1' is given twice"),
        ("id,WT_dice,WT_haus95 p1,high,3 p2,1,1", "patient 'p1' has 'high' in the column 'WT_dice'"),
        ("name,WT_dice,WT_haus95 p1,0.8,3", "lacks the column 'id'"),
        ("id,WT_dice,WT_haus95 Mean,0.8,3 p2,1,1", "row 'Mean' is one of a summary"),
        ("id,WT_dice,WT_haus95", "it has no patients"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(two: list[Path], second: str, words: str) -> None:
    write(two[1], second)
    with pytest.raises(DatasetError, match=words):
        rank(two)


@pytest.mark.parametrize("names", [["x"], ["x", "x"]])
def test_names_are_one_for_each_and_each_once(two: list[Path], names: list[str]) -> None:
    with pytest.raises(DatasetError, match="names"):
        rank(two, names)


def test_a_column_is_read_as_the_longest_metric_that_it_ends_in() -> None:
    found = directions(["ET_lesion_wise_dice", "ET_haus95", "x_speed"], {"x_speed": "lower"})
    assert [(direction.higher, direction.read_as) for direction in found.values()] == [
        (True, "lesion_wise_dice"),
        (False, "haus95"),
        (False, None),
    ]


@pytest.mark.parametrize(
    "columns, overrides, words",
    [
        (["fold"], {}, "column 'fold' ends in no known metric"),
        (["dice"], {}, "column 'dice' ends in no known metric"),
        (["WT_dice"], {"WT_dcie": "higher"}, "'WT_dcie', which is no column.* Did you mean 'WT_dice'"),
        (["WT_dice"], {"WT_dice": "up"}, "Give 'higher' or 'lower'"),
    ],
)
def test_a_direction_that_is_not_known_is_refused(columns: list[str], overrides: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        directions(columns, overrides)


def test_directions_are_read_from_a_file_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"WT_speed": "lower"}')
    assert read_directions(path) == {"WT_speed": "lower"}
    path.write_text('{"WT_speed": "down"}')
    with pytest.raises(ConfigError, match="WT_speed"):
        read_directions(path)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    raw = np.array(p_values)
    corrected = holm(raw)
    assert (corrected >= raw).all()
    assert (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(raw, kind="stable")]) >= 0).all()


def test_a_strategy_that_is_always_better_is_first_in_every_draw(tmp_path: Path) -> None:
    rows = " ".join(f"p{number},{{}}" for number in range(8))
    tables = [
        write(tmp_path / f"{name}.csv", "id,C_dice " + rows.replace("{}", value))
        for name, value in zip("abc", ("0.9", "0.5", "0.5"), strict=True)
    ]
    stability = rank(tables).stability.set_index("strategy")
    assert stability.loc["a", ["average_rank", "low", "high", "place_1"]].tolist() == [1, 1, 1, 1]
    assert stability.loc["b", ["place_1", "place_2", "place_3"]].tolist() == [0, 0.5, 0.5]


def test_everything_is_written_and_says_how_it_was_made(two: list[Path], tmp_path: Path) -> None:
    ranking = rank(two, significance=True)
    out = tmp_path / "out"
    written = write_ranking(ranking, out / "r.csv", out / "d.csv", out / "p.csv")
    assert sorted(path.name for path in written) == [
        "d.csv", "p.csv", "p_holm.csv", "r.csv", "r_facts.json", "r_stability.csv",
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in written)
    facts = json.loads((out / "r_facts.json").read_text())
    assert facts["directions"]["WT_haus95"] == {"better": "lower", "read_as": "haus95"}


@pytest.mark.parametrize(
    "output, detailed, significance",
    [
        ("a.csv", None, None),
        ("r.csv", "r.csv", None),
        ("r.csv", None, "r_stability.csv"),
        ("x.csv", "x_facts.json", None),
    ],
)
def test_a_ranking_is_never_written_over_itself_or_its_tables(
    two: list[Path], output: str, detailed: str | None, significance: str | None
) -> None:
    paths = [two[0].parent / name if name else None for name in (output, detailed, significance)]
    assert paths[0] is not None
    with pytest.raises(ConfigError, match="would be written over"):
        check_outputs(two, paths[0], *paths[1:])


def test_a_ranking_that_cannot_be_written_whole_is_not_written(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_ranking(rank(two), tmp_path / "r.csv", tmp_path / "file" / "d.csv")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("r", ".tmp"))]


def test_the_order_of_the_files_changes_nothing_but_the_order_of_ties(shared: Path) -> None:
    golden = shared / "golden" / "rank"
    one, other = (rank([golden / f"{name}.csv" for name in order], significance=True) for order in ("ABC", "CAB"))
    pd.testing.assert_frame_equal(one.summary, other.summary)
    pd.testing.assert_frame_equal(one.stability, other.stability)
