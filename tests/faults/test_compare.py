"""``mist_compare`` on tables of scores with one fault each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .harness import Arguments, Fault, Sandbox, edit_text, fill, meets, remove

ROWS = """id,core_dice,core_haus95
001,0.5,4.0
002,0.7,3.0
003,0.9,1.0
004,0.8,2.0
"""

EARLIER = {"a_1": "0.5,4.0", "a_2": "0.52,4.1", "b_1": "0.6,3.5", "b_2": "0.61,3.6"}
"""The runs of two methods, by the scores of the first patient."""


def table(box: Sandbox, name: str = "b_2") -> Path:
    return box.folder / "data" / f"{name}.csv"


def output(box: Sandbox) -> Path:
    return box.folder / "comparison.csv"


@pytest.fixture
def scored(bare: Sandbox) -> Sandbox:
    """A sandbox with the scores of two runs of two methods."""
    (bare.folder / "data").mkdir()
    for name, scores in EARLIER.items():
        table(bare, name).write_text(ROWS.replace("0.5,4.0", scores))
    return bare


def side(box: Sandbox, *names: str) -> str:
    return ",".join(str(table(box, name)) for name in names)


def compared(box: Sandbox) -> Arguments:
    return [side(box, "a_1", "a_2"), side(box, "b_1", "b_2")]


def patients(box: Sandbox) -> set[str]:
    """The numbers of patients that the verdicts are from."""
    with output(box).open(encoding="utf-8", newline="") as stream:
        return {row["patients"] for row in csv.DictReader(stream)}


def in_one(old: str, new: str) -> Callable[[Sandbox], None]:
    def change(box: Sandbox) -> None:
        assert old in table(box).read_text()
        edit_text(table(box), lambda text: text.replace(old, new))

    return change


def in_all(old: str, new: str) -> Callable[[Sandbox], None]:
    def change(box: Sandbox) -> None:
        for name in EARLIER:
            edit_text(table(box, name), lambda text: text.replace(old, new))

    return change


def folder_without_scores(box: Sandbox) -> Arguments:
    (box.folder / "results").mkdir()
    return [box.folder / "results"]


refused = partial(Fault, touches=False)
accepted = partial(Fault, status=0, again=False)

FAULTS = [
    refused(
        "compare/table-missing",
        "a table that is missing",
        lambda box: remove(table(box)),
        ("[table-missing]", "b_2.csv"),
    ),
    refused(
        "compare/table-empty",
        "an empty table",
        lambda box: fill(table(box)),
        ("[table-unreadable]", "b_2.csv"),
    ),
    refused(
        "compare/table-binary",
        "a file that is not a table",
        lambda box: table(box).write_bytes(bytes(range(256)) * 8) and None,
        ("[table-unreadable]", "b_2.csv"),
    ),
    refused(
        "compare/column-of-ids-missing",
        "a table without ids",
        in_one("id,", "name,"),
        ("[table-column-missing]", "b_2.csv", "id"),
    ),
    refused(
        "compare/id-twice",
        "a patient that is listed twice",
        in_one("002,", "001,"),
        ("b_2.csv", "001"),
    ),
    refused(
        "compare/score-not-number",
        "a score that is not a number",
        in_one("0.7,3.0", "good,3.0"),
        ("[score-not-number]", "b_2.csv", "good"),
    ),
    refused(
        "compare/unknown-metrics",
        "tables with columns of unknown metrics",
        in_all("core_dice,core_haus95", "core_wobble,core_wibble"),
        "[columns-unknown]",
    ),
    refused(
        "compare/other-patients",
        "methods with scores of other patients",
        lambda box: (
            [edit_text(table(box, name), lambda text: text.replace("\n0", "\n1")) for name in ("b_1", "b_2")] and None
        ),
        ("[nothing-shared]", "core_dice"),
    ),
    refused(
        "compare/run-of-both",
        "a run that is given to two methods",
        lambda box: [side(box, "a_2", "b_1")],
        ("[run-shared]", "a_2.csv"),
    ),
    refused(
        "compare/run-twice",
        "a run that is given twice to a method",
        lambda box: [side(box, "b_2", "b_2")],
        ("[run-duplicate]", "b_2.csv"),
    ),
    refused(
        "compare/folder-without-scores",
        "a folder of results without scores",
        folder_without_scores,
        ("[scores-missing]", "results"),
    ),
    refused(
        "compare/folder-among-tables",
        "a folder as one of several tables",
        lambda box: [f"{table(box)},{box.folder / 'data'}"],
        ("[table-missing]", "data"),
    ),
    refused(
        "compare/noise-missing",
        "a table of --noise that is missing",
        lambda box: ["--noise", box.folder / "none.csv"],
        ("[table-missing]", "none.csv"),
    ),
    refused(
        "compare/too-few-names",
        "one name for two methods",
        lambda _: ["--names", "one"],
        "[names-mismatch]",
    ),
    refused(
        "compare/names-alike",
        "the same name for two methods",
        lambda _: ["--names", "one", "one"],
        ("[name-duplicate]", "one"),
    ),
    refused(
        "compare/output-is-table",
        "an output that is a compared table",
        lambda box: ["--output-csv", table(box)],
        ("[output-is-input]", "b_2.csv"),
    ),
    refused(
        "compare/output-a-folder",
        "an output that is a folder",
        lambda box: ["--output-csv", table(box).parent],
        "[folder-not-file]",
    ),
    refused(
        "compare/output-below-a-file",
        "an output in a folder that is a file",
        lambda box: ["--output-csv", table(box) / "comparison.csv"],
        "[file-not-folder]",
    ),
    accepted(
        "compare/score-missing",
        "a patient without a score in one run",
        in_one("0.7,3.0", ",3.0"),
        ("1 patient (002)", "excluded from core_dice"),
        others_done=lambda box: patients(box) == {"3", "4"},
    ),
    accepted(
        "compare/no-patients",
        "a run without patients",
        lambda box: edit_text(table(box), lambda text: text.splitlines()[0]),
        ("b_2.csv is skipped", "0 of 4 patients"),
        others_done=lambda box: patients(box) == {"4"},
    ),
    accepted(
        "compare/run-incomplete",
        "a run with scores of fewer patients",
        in_one("004,0.8,2.0\n", ""),
        ("b_2.csv is skipped", "3 of 4 patients"),
        others_done=lambda box: patients(box) == {"4"},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_compare(scored: Sandbox, fault: Fault) -> None:
    meets(scored, "compare", compared(scored), fault)


def test_an_earlier_comparison_is_kept_if_a_new_one_fails(scored: Sandbox) -> None:
    assert scored.run("compare", *compared(scored)).status == 0
    before = {path: content for path, content in scored.files().items() if path.name.startswith("comparison")}
    assert len(before) == 2
    in_one("0.7,3.0", "good,3.0")(scored)
    assert scored.run("compare", *compared(scored)).status == 1
    assert {path: scored.files().get(path) for path in before} == before
