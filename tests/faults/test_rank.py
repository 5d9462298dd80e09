"""``mist_rank`` on tables of scores with one fault each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .harness import Arguments, Fault, Sandbox, edit_text, fill, meets, remove

ROWS = """id,core_dice,core_haus95
001,0.5,4.0
002,0.7,3.0
003,0.9,1.0
Mean,0.7,2.7
Std,0.2,1.5
25th Percentile,0.6,2.0
Median,0.7,3.0
75th Percentile,0.8,3.5
"""


def table(box: Sandbox, name: str = "b") -> Path:
    return box.folder / "data" / f"{name}.csv"


def ranks(box: Sandbox) -> Path:
    return box.folder / "ranks.csv"


@pytest.fixture
def scored(bare: Sandbox) -> Sandbox:
    """A sandbox with the scores of two strategies."""
    (bare.folder / "data").mkdir()
    table(bare, "a").write_text(ROWS)
    table(bare, "b").write_text(ROWS.replace("001,0.5", "001,0.6"))
    return bare


def ranking(box: Sandbox) -> Arguments:
    return ["--results", table(box, "a"), table(box, "b"), "--output-csv", ranks(box)]


def both_ranked(box: Sandbox) -> bool:
    return len(ranks(box).read_text().splitlines()) == 3


def in_b(old: str, new: str) -> Callable[[Sandbox], None]:
    def change(box: Sandbox) -> None:
        assert old in table(box).read_text()
        edit_text(table(box), lambda text: text.replace(old, new))

    return change


def in_both(old: str, new: str) -> Callable[[Sandbox], None]:
    def change(box: Sandbox) -> None:
        for name in ("a", "b"):
            edit_text(table(box, name), lambda text: text.replace(old, new))

    return change


def directions(box: Sandbox, content: str) -> Arguments:
    path = box.folder / "data" / "directions.json"
    path.write_text(content)
    return ["--metric-direction-overrides", path]


def written_to(box: Sandbox, flag: str, path: Callable[[Sandbox], Path]) -> Arguments:
    return [flag, path(box)]


def no_text(box: Sandbox) -> None:
    table(box).write_bytes(bytes(range(256)))


def without_scores(box: Sandbox) -> None:
    for name in ("a", "b"):
        fill(table(box, name), "id\n001\n")


def of_one_name(box: Sandbox) -> Arguments:
    table(box, "x/a").parent.mkdir()
    return ["--results", table(box, "a"), shutil.copy(table(box), table(box, "x/a"))]


refused = partial(Fault, touches=False)
accepted = partial(Fault, says="Ranking:", status=0, others_done=both_ranked)

FAULTS = [
    refused(
        "rank/one-table",
        "one table alone",
        lambda box: ["--results", table(box)],
        "--results",
        status=2,
    ),
    refused("rank/file-missing", "a table that is missing", lambda box: remove(table(box)), "b.csv"),
    refused(
        "rank/same-file-twice",
        "the same table twice",
        lambda box: ["--results", table(box), table(box)],
        ("[input-duplicate]", "b.csv"),
    ),
    refused(
        "rank/different-patients",
        "a table that lacks a patient",
        in_b("002,0.7,3.0\n", ""),
        ("[scores-missing]", "patient '002', core_dice, core_haus95"),
    ),
    refused(
        "rank/other-patients",
        "a table of another patient",
        in_b("\n002,", "\n099,"),
        ("[scores-missing]", "patient '002'", "patient '099'"),
    ),
    refused(
        "rank/column-missing",
        "a table that lacks a column",
        in_b("core_haus95", "core_haus100"),
        ("[columns-differ]", "'core_haus95'", "'core_haus100'"),
    ),
    refused(
        "rank/id-column-missing",
        "a table without the column id",
        in_b("id,", "patient,"),
        ("[table-column-missing]", "b.csv", "'id'"),
    ),
    refused(
        "rank/text-in-score",
        "a text in place of a score",
        in_b("0.7,3.0\n003", "failed,3.0\n003"),
        ("[score-not-number]", "'failed'", "'core_dice'", "'002'"),
    ),
    refused(
        "rank/score-empty",
        "a score that is empty",
        in_b("002,0.7,3.0", "002,,3.0"),
        ("[scores-missing]", "patient '002', core_dice"),
    ),
    accepted("rank/score-infinite", "a score that is infinite", in_b("002,0.7,3.0", "002,0.7,inf")),
    refused("rank/ids-twice", "a duplicate id", in_b("\n003,", "\n002,"), ("[table-invalid]", "'002'")),
    refused("rank/id-empty", "a row without an id", in_b("\n002,", "\n,"), ("[table-invalid]", "row 3")),
    refused(
        "rank/id-reserved",
        "a patient with the id of a summary row",
        in_b("\n002,", "\nMean,"),
        ("[table-invalid]", "'Mean'"),
    ),
    refused(
        "rank/table-empty",
        "a table without rows",
        lambda box: edit_text(table(box), lambda text: text.splitlines()[0]),
        ("[table-invalid]", "b.csv", "no patients"),
    ),
    refused(
        "rank/file-empty",
        "an empty file",
        lambda box: fill(table(box)),
        "b.csv",
    ),
    refused(
        "rank/not-a-table",
        "an image in place of a table",
        no_text,
        "b.csv",
    ),
    refused(
        "rank/no-metrics",
        "tables without scores",
        without_scores,
        ("[table-invalid]", "a.csv", "'id'"),
    ),
    accepted("rank/csv-semicolon", "a table with semicolons", in_b(",", ";")),
    refused(
        "rank/csv-cell-too-many",
        "an extra column in a row",
        in_b("002,0.7,3.0", "002,0,7,3.0"),
        ("b.csv", "3"),
    ),
    accepted("rank/csv-bom", "a table with a byte-order mark", in_b("id,", "\ufeffid,")),
    accepted("rank/csv-crlf", "a table with Windows line endings", in_b("\n", "\r\n")),
    accepted(
        "rank/same-names",
        "two tables with the same name in different folders",
        of_one_name,
    ),
    refused(
        "rank/names-too-few",
        "fewer names than tables",
        lambda _: ["--names", "one"],
        ("[names-mismatch]", "1 name", "2 tables"),
    ),
    refused(
        "rank/names-alike",
        "the same name for two tables",
        lambda _: ["--names", "one", "one"],
        ("[name-duplicate]", "one"),
    ),
    refused(
        "rank/unknown-metric",
        "a column of an unknown metric",
        in_both("core_haus95", "core_wobble"),
        ("[direction-unknown]", "'core_wobble'"),
    ),
    refused(
        "rank/direction-of-no-column",
        "a direction for an unknown column",
        partial(directions, content='{"core_haus59": "lower"}'),
        ("[unknown-column]", "Did you mean 'core_haus95'?"),
    ),
    refused(
        "rank/direction-unknown",
        "a direction that is neither higher nor lower",
        partial(directions, content='{"core_haus95": "up"}'),
        "core_haus95",
    ),
    refused(
        "rank/directions-broken",
        "a file of directions that is cut short",
        partial(directions, content='{"core_haus95": '),
        ("[json-invalid]", "directions.json"),
    ),
    refused(
        "rank/directions-missing",
        "a file of directions that is missing",
        lambda box: ["--metric-direction-overrides", box.folder / "none.json"],
        ("[file-missing]", "none.json"),
    ),
    *(
        refused(
            f"rank/{key}",
            what,
            partial(written_to, flag=flag, path=path),
            code,
        )
        for key, what, flag, path, code in (
            ("output-is-table", "an output that is a ranked table", "--output-csv", table, "[output-is-input]"),
            (
                "output-a-folder",
                "an output that is a folder",
                "--output-csv",
                lambda box: table(box).parent,
                "[folder-not-file]",
            ),
            ("outputs-alike", "two outputs with the same path", "--output-detailed-csv", ranks, "[output-duplicate]"),
        )
    ),
    refused(
        "rank/output-below-a-file",
        "an output in a folder that is a file",
        lambda box: ["--output-csv", table(box) / "ranks.csv"],
        "[file-not-folder]",
    ),
    accepted(
        "rank/output-folder-missing",
        "an output in a folder that does not exist",
        lambda box: ["--output-csv", box.folder / "new" / "ranks.csv"],
        others_done=lambda box: (box.folder / "new" / "ranks.csv").is_file(),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_rank(scored: Sandbox, fault: Fault) -> None:
    meets(scored, "rank", ranking(scored), fault)


def test_an_earlier_ranking_is_kept_if_a_new_one_fails(scored: Sandbox) -> None:
    assert scored.run("rank", *ranking(scored)).status == 0
    before = {path: content for path, content in scored.files().items() if path.name.startswith("ranks")}
    in_b("0.7,3.0\n003", ",\n003")(scored)
    assert scored.run("rank", *ranking(scored)).status == 1
    assert {path: scored.files().get(path) for path in before} == before
    facts = json.loads(ranks(scored).with_name("ranks_facts.json").read_text())
    assert facts["patients"] == 3
