from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expect import refuses
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


def test_golden_tables_rank_like_the_reference(shared: Path) -> None:
    golden = shared / "golden" / "rank"
    ranking = rank([golden / f"{name}.csv" for name in "ABC"])
    for found, file in ((ranking.summary, "expected_summary.csv"), (ranking.detailed, "expected_detailed.csv")):
        pd.testing.assert_frame_equal(found, pd.read_csv(golden / file), rtol=0, atol=1e-12)


def test_p_values_equal_the_references_except_for_ties_that_it_breaks(shared: Path) -> None:
    golden = shared / "golden" / "rank"
    scores = read_scores([golden / f"{name}.csv" for name in "ABC"])
    ranks = rank_cells(scores, directions([str(column) for column in scores.tables["A"]], {}))
    means, found = ranks.mean(axis=2), significance_table(["A", "B", "C"], ranks)
    expected = pd.read_csv(golden / "expected_significance_scipy1.17.csv")
    for row, column in permutations(range(3), 2):
        # Means of ranks differ in the last bit where the sums are equal: 10 sizes of difference instead of 6.
        rounding = wilcoxon(means[row] - means[column], alternative="less").pvalue
        assert rounding == pytest.approx(expected.iat[row, column + 1], abs=1e-9)
        whole = np.rint(6 * (means[row] - means[column])).astype(int)
        assert found.iat[row, column + 1] == pytest.approx(wilcoxon(whole, alternative="less").pvalue, abs=1e-12)


def test_ranks_by_hand(two: list[Path]) -> None:
    ranking = rank(two)
    assert ranking.summary.to_dict("list") == {"strategy": ["a", "b"], "average_rank": [1.25, 1.75]}
    assert ranking.detailed["WT_haus95"].tolist() == [1.25, 1.75]


def test_the_order_of_rows_and_columns_does_not_matter(two: list[Path], tmp_path: Path) -> None:
    shuffled = write(tmp_path / "c.csv", "WT_haus95,id,WT_dice 2,p2,0.5 3,p1,0.8")
    pd.testing.assert_frame_equal(rank(two).detailed, rank([two[0], shuffled], ["a", "b"]).detailed)


def test_summary_rows_at_the_end_are_not_patients(two: list[Path]) -> None:
    plain = rank(two).summary
    for path in two:
        path.write_text(path.read_text() + "".join(f"{name},9,9\n" for name in SUMMARY_ROWS))
    pd.testing.assert_frame_equal(rank(two).summary, plain)


def test_ids_are_text(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "id,C_dice 007,0.5 7,0.1")
    second = write(tmp_path / "b.csv", "id,C_dice 7,0.2 007,0.4")
    assert rank([first, second]).facts["patients"] == 2


def test_scores_that_differ_only_by_rounding_tie(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "id,C_dice p,0.3")
    second = write(tmp_path / "b.csv", f"id,C_dice p,{0.1 + 0.2!r}")
    assert rank([first, second]).summary["average_rank"].tolist() == [1.5, 1.5]


def test_a_missing_score_is_an_error_that_names_it(two: list[Path]) -> None:
    write(two[1], "id,WT_dice,WT_haus95 p1,,3")
    with refuses(
        "scores-missing", DatasetError, names=f"{two[1]}: patient 'p2', WT_dice, WT_haus95", found=["p1", "p2"]
    ):
        rank(two)


def test_a_missing_score_ranks_last_after_infinity(tmp_path: Path) -> None:
    tables = [
        write(tmp_path / f"{name}.csv", f"id,C_haus95 p,{value}")
        for name, value in zip("abc", ("inf", "", 1), strict=True)
    ]
    assert rank(tables, missing="worst").summary["strategy"].tolist() == ["c", "a", "b"]


def test_a_patient_with_a_missing_score_can_be_dropped_and_is_named(two: list[Path]) -> None:
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
def test_default_names_are_unique(paths: list[str], names: list[str]) -> None:
    assert default_names([Path("/") / path for path in paths]) == names


def test_the_same_table_twice_is_refused() -> None:
    with refuses("input-duplicate", DatasetError, found=[Path("a.csv").resolve()]):
        default_names([Path("a.csv"), Path("a.csv")])


@pytest.mark.parametrize(
    "second, code, names, facts",
    [
        ("id,WT_dice p1,0.8", "columns-differ", "", {"found": ["WT_haus95"]}),
        ("id,WT_dice,WT_haus95 p1,0.8,3 p1,1,1", "table-invalid", "'p1'", {}),
        (
            "id,WT_dice,WT_haus95 p1,high,3 p2,1,1",
            "score-not-number",
            "",
            {"case": "p1", "field": "WT_dice", "found": "high"},
        ),
        ("name,WT_dice,WT_haus95 p1,0.8,3", "table-column-missing", "", {"field": "id"}),
        ("id,WT_dice,WT_haus95 Mean,0.8,3 p2,1,1", "table-invalid", "'Mean'", {}),
        ("id,WT_dice,WT_haus95", "table-invalid", "no patients", {}),
    ],
)
def test_tables_that_do_not_match_are_refused(
    two: list[Path], second: str, code: str, names: str, facts: dict[str, object]
) -> None:
    write(two[1], second)
    with refuses(code, DatasetError, names=names, file=two[1], **facts):
        rank(two)


@pytest.mark.parametrize("names, code", [(["x"], "names-mismatch"), (["x", "x"], "name-duplicate")])
def test_each_table_has_one_unique_name(two: list[Path], names: list[str], code: str) -> None:
    with refuses(code, DatasetError, field="--names"):
        rank(two, names)


def test_one_table_is_too_few(two: list[Path]) -> None:
    # pinned
    with refuses("too-few-inputs", DatasetError, names="--results needs at least two tables; got 1."):
        rank(two[:1])


def test_tables_without_a_complete_patient_are_refused(two: list[Path]) -> None:
    write(two[1], "id,WT_dice,WT_haus95 p1,,3 p2,0.5,")
    with refuses("scores-missing", DatasetError, field="--missing"):
        rank(two, missing="drop")


def test_the_direction_of_a_column_is_that_of_the_longest_metric_it_ends_in() -> None:
    found = directions(["ET_lesion_wise_dice", "ET_haus95", "x_speed"], {"x_speed": "lower"})
    assert [(direction.higher, direction.read_as) for direction in found.values()] == [
        (True, "lesion_wise_dice"),
        (False, "haus95"),
        (False, None),
    ]


@pytest.mark.parametrize(
    "columns, overrides, code, facts",
    [
        (["fold"], {}, "direction-unknown", {"field": "fold"}),
        (["dice"], {}, "direction-unknown", {"field": "dice"}),
        (["WT_dice"], {"WT_dcie": "higher"}, "unknown-column", {"found": "WT_dcie", "names": "'WT_dice'"}),
        (["WT_dice"], {"WT_dice": "up"}, "direction-invalid", {"field": "WT_dice", "found": "up"}),
    ],
)
def test_an_unknown_direction_is_refused(
    columns: list[str], overrides: dict[str, str], code: str, facts: dict[str, str]
) -> None:
    with refuses(code, ConfigError, **facts):
        directions(columns, overrides)


def test_directions_are_read_from_a_file_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"WT_speed": "lower"}')
    assert read_directions(path) == {"WT_speed": "lower"}
    path.write_text('{"WT_speed": "down"}')
    with pytest.raises(ConfigError, match="WT_speed"):
        read_directions(path)
    with refuses("file-missing", ConfigError, file=tmp_path / "none.json"):
        read_directions(tmp_path / "none.json")


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


def test_a_strategy_that_is_always_better_is_first_in_every_resample(tmp_path: Path) -> None:
    rows = " ".join(f"p{number},{{}}" for number in range(8))
    tables = [
        write(tmp_path / f"{name}.csv", "id,C_dice " + rows.replace("{}", value))
        for name, value in zip("abc", ("0.9", "0.5", "0.5"), strict=True)
    ]
    stability = rank(tables).stability.set_index("strategy")
    assert stability.loc["a", ["average_rank", "low", "high", "place_1"]].tolist() == [1, 1, 1, 1]
    assert stability.loc["b", ["place_1", "place_2", "place_3"]].tolist() == [0, 0.5, 0.5]


def test_all_files_are_written_with_the_facts_of_the_ranking(two: list[Path], tmp_path: Path) -> None:
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
    "output, detailed, significance, code",
    [
        ("a.csv", None, None, "output-is-input"),
        ("", None, None, "folder-not-file"),
        ("r.csv", "r.csv", None, "output-duplicate"),
        ("r.csv", None, "r_stability.csv", "output-duplicate"),
        ("x.csv", "x_facts.json", None, "output-duplicate"),
    ],
)
def test_an_output_that_would_overwrite_a_table_or_another_output_is_refused(
    two: list[Path], output: str, detailed: str | None, significance: str | None, code: str
) -> None:
    further = [two[0].parent / name if name else None for name in (detailed, significance)]
    with refuses(code, ConfigError):
        check_outputs(two, two[0].parent / output, *further)


def test_no_file_is_written_if_one_of_them_cannot_be(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_ranking(rank(two), tmp_path / "r.csv", tmp_path / "file" / "d.csv")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("r", ".tmp"))]


def test_the_order_of_the_files_changes_only_the_order_of_ties(shared: Path) -> None:
    golden = shared / "golden" / "rank"
    one, other = (rank([golden / f"{name}.csv" for name in order], significance=True) for order in ("ABC", "CAB"))
    pd.testing.assert_frame_equal(one.summary, other.summary)
    pd.testing.assert_frame_equal(one.stability, other.stability)
