"""``mist_evidence``, the pack as an asset of a study, its page, and what is written to the history."""

import json
import time
import zipfile
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.keep import Choice, keep, undo
from mist_dagster.freshness.status import status
from mist_dagster.instance import addresses
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.launch import Launcher
from mist_dagster.pipeline import Resources, in_order, run
from mist_dagster.provenance import asset_key
from mist_dagster.runtime.progress import LogProgress
from mist_ops.config import override, read_config, write_config
from mist_ops.files import file_hash
from mist_ops.records.history import append, read_history
from mist_ops.records.reviews import Review, write_review
from mist_ops.study import Study

from .browsing import get, post


def evidence(*arguments: str | Path) -> int:
    return cli.evidence([str(argument) for argument in arguments])


def packed(study: Study) -> None:
    """Write the pack of a study in a run, as the launchpad does."""
    with instance() as opened:
        launcher = Launcher(opened, LogProgress(), build_definitions)
        run(launcher, study, in_order({"evidence": None}, {}), Resources())


@pytest.fixture
def study(copied_study: Study) -> Study:
    return register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data)


def test_a_pack_is_written_verified_and_compared_with_the_scans(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = tmp_path / "pack.zip"
    assert evidence(study.model(0), "-o", pack) == 0  # the arrays are those of the registered study
    assert file_hash(pack) in capsys.readouterr().out
    assert evidence("verify", pack, "--data", study.data or "") == 0
    printed = capsys.readouterr().out
    assert "1 model, 6 patients, 18 scans and masks" in printed
    assert file_hash(pack) in printed
    assert evidence("verify", pack, "--data", study.results) == 1
    assert "phantom_001: t1 is missing." in capsys.readouterr().err
    pack.write_bytes(pack.read_bytes().replace(b"phantom_001", b"phantom_007", 1))
    assert evidence("verify", pack) == 1
    assert "[pack-changed]" in capsys.readouterr().err


def test_a_pack_with_pseudonyms_needs_the_key_only_to_tell_what_differs(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, key = tmp_path / "pack.zip", tmp_path / "key"
    assert evidence(study.models, "-o", pack, "--pseudonymize", key) == 0
    assert b"phantom_0" not in pack.read_bytes()
    assert evidence("verify", pack, "--data", study.data or "", "--pseudonymize", key) == 0
    assert evidence("verify", pack, "--data", study.data or "", "--pseudonymize", tmp_path / "none") == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["none.pt", "-o", "pack.zip"], "model-missing"),
        (["results/models/fold_0.pt", "-o", "pack.zip", "--numpy", "elsewhere"], "evidence-incomplete"),
        (["results/models/fold_0.pt", "-o", "results/results.csv"], "output-exists"),
        (["results/models/fold_0.pt", "-o", "pack.zip", "--pseudonymize", "results/config.json"], "key-invalid"),
        (["verify", "none.zip"], "file-missing"),
        (["verify", "results/results.csv"], "pack-changed"),
    ],
)
def test_a_refusal_is_one_message_and_writes_nothing(
    study: Study, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = study.results_csv.read_bytes()
    assert cli.evidence(arguments) == 1
    error = capsys.readouterr().err
    assert f"[{code}]" in error
    assert error.count("Error:") == 1
    assert not Path("pack.zip").exists()
    assert study.results_csv.read_bytes() == scores


@pytest.mark.parametrize("arguments", [[], ["fold_0.pt"], ["verify"], ["verify", "a.zip", "--dat", "b"]])
def test_invalid_arguments_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.evidence(arguments)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_pack_of_a_study_is_optional_and_stale_after_a_decision(study: Study) -> None:
    assert status(study).current  # no pack is missing
    packed(study)
    assert status(study).current
    assert cli.accept(["--results", str(study.results)]) == 0
    assert status(study).stale == {"evidence": {"evidence.zip": "history.jsonl changed"}}
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    assert cli.plan([*where, "--apply"]) == 0
    assert status(study).current
    write_config(study.config, override(read_config(study.config), {"training.epochs": 2}))
    assert "it follows train" in status(study).of("evidence")["evidence.zip"]


def test_a_kept_pack_stays_current(study: Study) -> None:
    packed(study)
    append(study, "accepted", {})
    with instance() as opened:
        keep(Launcher(opened, LogProgress(), build_definitions), study, Choice("evidence"), "sent already")
    assert status(study).current
    append(study, "accepted", {})
    assert status(study).of("evidence") == {"evidence.zip": "history.jsonl changed"}


def test_the_pack_is_recorded_with_its_hash(study: Study) -> None:
    packed(study)
    with instance() as opened:
        event = opened.get_latest_materialization_event(asset_key(study, "evidence_pack"))
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.metadata["sha256"].value == file_hash(study.evidence)


def test_decisions_are_recorded_in_the_history(study: Study, tmp_path: Path) -> None:
    assert cli.accept(["--results", str(study.results)]) == 0
    comment = {"id": "phantom_001", "verdict": "poor", "note": "a note"}
    assert post(addresses.reviews(study), comment).status == 200
    write_config(study.config, override(read_config(study.config), {"training.epochs": 2}))
    with instance() as opened:
        launcher = Launcher(opened, LogProgress(), build_definitions)
        keep(launcher, study, Choice("train", ["fold_0"]), "it had converged")
        undo(launcher, study, Choice("train", ["fold_0"]))
    other = tmp_path / "other.csv"
    other.write_bytes(study.results_csv.read_bytes())
    ranked = ["--results", str(study.results_csv), str(other), "--output-csv", str(tmp_path / "ranking.csv")]
    assert cli.rank([*ranked, "--names", "a", "b"]) == 0
    events = read_history(study.history)
    assert [event.kind for event in events] == ["accepted", "verdict", "kept", "no longer kept", "ranking"]
    accepted, verdict, kept, released, ranking = (dict(event.facts) for event in events)
    assert accepted["scores"] == file_hash(study.accepted_csv)
    assert accepted["models"] == {f"fold_{fold}": file_hash(study.model(fold)) for fold in (0, 1)}
    assert verdict == {"patient": "phantom_001", "verdict": "poor"}
    assert (kept["key"], kept["reason"], kept == released) == ("fold_0", "it had converged", True)
    assert ranking["scores"] == dict.fromkeys("ab", file_hash(other))
    assert str(tmp_path) not in study.history.read_text()


def test_the_page_shows_the_pack_and_serves_it(study: Study) -> None:
    page = get(addresses.evidence(study))
    assert (page.status, "No pack has been written yet" in page.text) == (200, True)
    assert get(addresses.evidence_file(study)).status == 404
    packed(study)
    page = get(addresses.evidence(study))
    assert "Intact" in page.text
    assert file_hash(study.evidence) in page.text
    with zipfile.ZipFile(study.evidence) as archive:
        members = archive.namelist()
    assert [name for name in members if f"<code>{name}</code>" not in page.text] == ["manifest.json"]
    answer = get(addresses.evidence_file(study))
    assert (answer.content, answer.headers["content-type"]) == (study.evidence.read_bytes(), "application/zip")
    assert "attachment" in answer.headers["content-disposition"]


def test_a_changed_pack_is_shown_as_such_and_not_served(study: Study, tmp_path: Path) -> None:
    study.evidence.write_bytes(b"PK" + b"0" * 100)
    assert "is not intact" in get(addresses.evidence(study)).text
    assert get(addresses.evidence_file(study)).status == 404
    secret = tmp_path / "secret"
    secret.write_text("a password")
    study.evidence.unlink()
    study.evidence.symlink_to(secret)
    assert get(addresses.evidence_file(study)).status == 404
    assert "No pack" in get(addresses.evidence(study)).text


def test_a_model_that_is_trained_now_records_all_packages(finished: Study) -> None:
    packages = json.loads(finished.passport(0).read_text())["packages"]
    assert {"torch", "pydantic", "dagster"} <= set(packages)
    assert list(packages) == sorted(packages)


def test_a_verified_pack_is_read_again_once_it_changed(study: Study) -> None:
    packed(study)
    first = get(addresses.evidence(study)).text
    write_review(study.reviews, Review("phantom_002", "good"))
    time.sleep(0.01)
    packed(study)
    second = get(addresses.evidence(study)).text
    assert first != second
    assert file_hash(study.evidence) in second
