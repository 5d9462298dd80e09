"""The pages of studies: what they show, and what no address reaches."""

import gzip
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mist_dagster.definitions import build_definitions
from mist_dagster.instance import addresses
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import register
from mist_dagster.jobs import study_jobs
from mist_dagster.provenance import asset_key
from mist_dagster.runtime.locks import study_lock
from mist_dagster.site.curves import curves
from mist_dagster.stages import STAGES
from mist_ops.analysis.folds import assign_folds
from mist_ops.config import ReplicaSeeds, write_replica
from mist_ops.dataset import Assignment, find_training_cases, read_description, read_train_paths, write_train_paths
from mist_ops.evaluation.table import summary_path
from mist_ops.files import read_object
from mist_ops.phantoms import write_phantoms
from mist_ops.records.epochs import write_epochs
from mist_ops.records.passport import Epoch, read_passport
from mist_ops.records.reviews import read_reviews
from mist_ops.study import Study

from .browsing import DAGSTER, get, post


@pytest.fixture(scope="module")
def unanalyzed(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Study:
    """A registered study with a table of patients and the prediction of the first, without settings."""
    folder = tmp_path_factory.mktemp("listed")
    shutil.copytree(empty_home, folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        data = write_phantoms(folder / "data", patients=4, tests=1, size=(24, 26, 22))
        cases = find_training_cases(read_description(data))
        study = register(folder / "results", numpy=folder / "numpy", data=data, name="listed")
        fold_of = assign_folds([case.id for case in cases], 2)
        write_train_paths(study.train_paths, Assignment(tuple(cases), fold_of))
        study.cv_predictions.mkdir(parents=True)
        mask = cases[0].mask
        assert mask
        shutil.copy(mask, study.cv_prediction(cases[0].id))
        return study


@pytest.fixture
def listed(unanalyzed: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The same, in its home."""
    monkeypatch.setenv("DAGSTER_HOME", str(unanalyzed.results.parent / "home"))
    return unanalyzed


@pytest.fixture
def first(listed: Study) -> str:
    return read_train_paths(listed.train_paths).cases[0].id


def test_the_pages_lead_from_all_studies_to_an_image(listed: Study, first: str) -> None:
    index = get(addresses.ROOT)
    assert (index.status, addresses.home(listed) in index.text) == (200, True)
    assert addresses.patients(listed) in get(addresses.home(listed)).text
    page = get(addresses.patient(listed, first))
    assert page.status == 200
    case = read_train_paths(listed.train_paths)[first]
    for name, path in {**case.images, "truth": case.mask, "prediction": listed.cv_prediction(first)}.items():
        assert path
        assert addresses.volume(listed, first, name) in page.text
        assert get(addresses.volume(listed, first, name)).content == path.read_bytes()


def test_an_uncompressed_image_is_compressed_on_the_way(listed: Study) -> None:
    assignment = read_train_paths(listed.train_paths)
    case = assignment.cases[1]
    mask = case.mask
    assert mask
    plain = mask.with_name("plain.nii")
    plain.write_bytes(gzip.decompress(mask.read_bytes()))
    changed = [type(case)(case.id, case.images, plain) if other is case else other for other in assignment.cases]
    write_train_paths(listed.train_paths, Assignment(tuple(changed), assignment.fold_of))
    try:
        assert gzip.decompress(get(addresses.volume(listed, case.id, "truth")).content) == plain.read_bytes()
    finally:
        write_train_paths(listed.train_paths, assignment)


@pytest.mark.parametrize(
    "path",
    [
        "/studies/other",
        "/studies/..",
        "/studies/../etc/passwd",
        "/studies//etc/passwd",
        "/studies/listed/patients/..",
        "/studies/listed/patients/nobody",
        "/studies/listed/patients/../train_paths",
        "/studies/listed/patients/{first}\0",
        "/studies/listed/patients/{first}\\..\\config",
        "/studies/listed/patients/{first}/volumes/../../../../train_paths.nii.gz",
        "/studies/listed/patients/{first}/volumes//etc/passwd.nii.gz",
        "/studies/listed/patients/{first}/volumes/mask\0.nii.gz",
        "/studies/listed/patients/{first}/volumes/..\\t1.nii.gz",
        "/studies/listed/patients/{first}/volumes/.nii.gz",
        "/studies/-/../application.py",
        "/studies/-/../templates/page.html",
        "/studies/-//etc/passwd",
        "/studies/-/..\\application.py",
        "/studies/-/%2e%2e/application.py",
        "/studies/-/",
        "/studies/-",
    ],
)
def test_no_address_reaches_another_file(listed: Study, first: str, path: str) -> None:
    assert get(path.format(first=first)).status == 404


def test_an_image_is_served_only_if_it_is_one(listed: Study, first: str, tmp_path: Path) -> None:
    """Tables and links may come from somebody else."""
    secret = tmp_path / "secret"
    secret.write_text("a password")
    packed = tmp_path / "secret.nii.gz"
    packed.write_bytes(gzip.compress(b"a password"))
    prediction = listed.cv_prediction(first)
    kept = prediction.read_bytes()
    try:
        for target in (secret, packed, tmp_path):
            prediction.unlink()
            prediction.symlink_to(target)
            assert get(addresses.volume(listed, first, "prediction")).status == 404
    finally:
        prediction.unlink()
        prediction.write_bytes(kept)


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"host": "evil.example"}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8888"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 200),
    ],
)
def test_other_sites_and_hosts_are_refused(listed: Study, headers: dict[str, str], status: int) -> None:
    assert get(addresses.home(listed), headers).status == status


SCRIPTS = ["/studies/-/site.css", "/studies/-/vendor/uplot-1.6.32/uPlot.iife.min.js"]


@pytest.mark.parametrize("path", ["/studies", "/studies/listed", "/studies/nobody", *SCRIPTS])
def test_every_answer_forbids_scripts_of_others(listed: Study, path: str) -> None:
    headers = get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path in SCRIPTS else "no-store")


def test_what_is_not_a_page_of_studies_is_left_to_dagster(listed: Study) -> None:
    assert [get(path).text for path in ("/", "/runs", "/studiesx", "/assets/studies")] == [DAGSTER] * 4


def test_a_broken_table_is_reported_on_the_page(listed: Study) -> None:
    kept = listed.train_paths.read_text()
    try:
        listed.train_paths.write_text("id,mask\n<script>,x\n")
        answer = get(addresses.home(listed))
        assert answer.status == 500
        assert "[table-column-missing]" in answer.text
        assert "<script>" not in answer.text
    finally:
        listed.train_paths.write_text(kept)


def with_scores(study: Study, ids: list[str]) -> None:
    """Write scores that get better with each patient, and one patient without any."""
    rows = [f"{case_id},{place / len(ids)},{30 - place}" for place, case_id in enumerate(ids[:-1])]
    study.results_csv.write_text("\n".join(["id,lesion_dice,lesion_haus95", *rows, f"{ids[-1]},,", ""]))


@pytest.fixture
def scored(listed: Study) -> Iterator[Study]:
    with_scores(listed, [case.id for case in read_train_paths(listed.train_paths).cases])
    yield listed
    listed.results_csv.unlink()


def test_patients_are_listed_worst_first_with_those_without_scores_last(scored: Study) -> None:
    ids = [case.id for case in read_train_paths(scored.train_paths).cases]
    text = get(addresses.patients(scored)).text
    assert sorted(ids, key=lambda case_id: text.index(f'data-id="{case_id}"')) == ids
    assert text.count("not scored|") == 1
    first, second, *_ = ids
    page = get(addresses.patient(scored, first)).text
    assert "Worst of 3</b> over all scores" in page
    assert f'rel="next" href="{addresses.patient(scored, second)}"' in page
    assert "30.0 mm" in page


def test_two_thousand_patients_are_listed_within_two_seconds(listed: Study) -> None:
    kept = listed.train_paths.read_text()
    ids = [f"patient_{place:04}" for place in range(2000)]
    try:
        rows = [f"{case_id},{place % 5},mask.nii.gz,t1.nii.gz" for place, case_id in enumerate(ids)]
        listed.train_paths.write_text("\n".join(["id,fold,mask,t1", *rows, ""]))
        with_scores(listed, ids)
        started = time.process_time()
        text = get(addresses.patients(listed)).text
        assert time.process_time() - started < 2
        assert text.count(" data-id=") == 2000
    finally:
        listed.train_paths.write_text(kept)
        listed.results_csv.unlink()


def test_a_comment_is_saved_and_shown(listed: Study, first: str) -> None:
    comment = {"id": first, "verdict": "fix mask", "note": "<b>left</b> lobe"}
    assert post(addresses.reviews(listed), comment).status == 200
    assert read_reviews(listed.reviews)[first].note == "<b>left</b> lobe"
    for page in (addresses.patient(listed, first), addresses.patients(listed)):
        assert "&lt;b&gt;left&lt;/b&gt; lobe" in get(page).text
    assert post(addresses.reviews(listed), {"id": first, "verdict": "", "note": ""}).status == 200
    assert not listed.reviews.exists()
    assert len(listed.history.read_text().splitlines()) == 2
    listed.history.unlink()  # other tests compare the files of the study


@pytest.mark.parametrize(
    "comment, headers, status",
    [
        ({"id": "{first}", "verdict": "perfect", "note": ""}, {}, 400),
        ({"id": "{first}", "verdict": "good", "note": "x" * 2001}, {}, 400),
        ({"id": "{first}", "verdict": "good", "note": "x" * 20000}, {}, 413),
        ({"id": "{first}", "verdict": "good"}, {}, 400),
        ({"id": "{first}", "verdict": "good", "note": 1}, {}, 400),
        (["{first}"], {}, 400),
        ({"id": "../{first}", "verdict": "good", "note": ""}, {}, 404),
        ({"id": "nobody", "verdict": "good", "note": ""}, {}, 404),
        ({"id": "{first}", "verdict": "good", "note": ""}, {"content-type": "text/plain"}, 415),
        ({"id": "{first}", "verdict": "good", "note": ""}, {"origin": "http://evil.example"}, 403),
        ({"id": "{first}", "verdict": "good", "note": ""}, {"host": "evil.example"}, 400),
    ],
)
def test_a_comment_that_is_not_valid_writes_nothing(
    listed: Study, first: str, comment: Any, headers: dict[str, str], status: int
) -> None:
    if isinstance(comment, dict):
        comment = {**comment, "id": comment["id"].format(first=first)}
    assert post(addresses.reviews(listed), comment, headers).status == status
    assert not listed.reviews.exists()


def test_a_picture_outside_of_the_results_or_of_another_kind_is_not_served(
    listed: Study, first: str, tmp_path: Path
) -> None:
    figure, png = listed.cv_figure(first), b"\x89PNG\r\n\x1a\n..."
    figure.parent.mkdir(exist_ok=True)
    figure.write_bytes(png)
    assert get(addresses.picture(listed, first)).content == png
    figure.write_text("<script>")
    assert get(addresses.picture(listed, first)).status == 404
    figure.unlink()
    (tmp_path / "other.png").write_bytes(png)
    figure.symlink_to(tmp_path / "other.png")
    assert get(addresses.picture(listed, first)).status == 404
    figure.unlink()


def test_a_study_that_is_not_analyzed_has_pages(listed: Study) -> None:
    for address in (addresses.home(listed), addresses.training(listed), addresses.patients(listed)):
        assert get(address).status == 200
    assert get(addresses.epochs(listed)).json == []
    state = get(addresses.state(listed))
    assert state.status == 200
    assert "banner unknown" in state.text


def test_the_page_of_a_finished_study_shows_its_state_its_folds_and_its_scores(
    finished: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(finished.results.parent / "dagster_home"))
    case = read_train_paths(finished.train_paths).cases[0]
    home, state = get(addresses.home(finished)).text, get(addresses.state(finished)).text
    for column, values in read_object(summary_path(finished.results_csv))["columns"].items():
        assert f"{values['mean']:.3f} [" in home or f"{values['mean']:.1f} [" in home, column
    assert addresses.picture(finished, case.id) in home
    assert addresses.job(f"{finished.key}__make_current") in home
    assert state.count('class="state current"') >= 5
    assert addresses.asset(finished, "fold_model") in state
    assert "Everything shown here" in get(addresses.banner(finished)).text


def test_epochs_are_sent_once(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(finished.results.parent / "dagster_home"))
    history = read_passport(finished.model(0)).history
    first, second = get(addresses.epochs(finished)).json
    assert [epoch["training_loss"] for epoch in first["epochs"]] == [epoch.training_loss for epoch in history]
    assert (first["state"], second["fold"]) == ("trained", 1)
    again, other = get(addresses.epochs(finished), query=f"0={len(history)}").json
    assert (again["epochs"], again["start"]) == ([], len(history))
    assert other["epochs"] == second["epochs"]
    # A page that knows more epochs than there are has those of a training that was replaced.
    assert get(addresses.epochs(finished), query="0=99&1=-1").json == [first, second]


def test_a_running_training_is_shown_with_the_one_that_it_replaces(
    finished: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(finished.results.parent / "dagster_home"))
    history = read_passport(finished.model(1)).history
    running = [Epoch(index, 0.5, None, 0.01, False, 3600.0, 0.2) for index in range(3)]
    write_epochs(finished.attempt_epochs(1), running)
    try:
        with study_lock("0123456789", finished, "training", stage="train", partitions=["fold_1"], writes=[1]):
            _, fold = curves(finished, [0, 1], 5)
            assert (fold.state, list(fold.epochs), fold.before) == ("running", running, history)
            assert fold.left == "2.0 h"
            assert get(addresses.epochs(finished)).json[1]["done"] == 3
    finally:
        shutil.rmtree(finished.attempt_logs(1))


def test_two_studies_are_compared_on_their_common_patients(scored: Study, tmp_path: Path) -> None:
    ids = [case.id for case in read_train_paths(scored.train_paths).cases]
    other = register(tmp_path / "other", numpy=tmp_path / "numpy", data=scored.data, name="other")
    other.results.mkdir()
    other.results_csv.write_text(
        "\n".join(["id,lesion_dice,lesion_haus95", *(f"{case_id},0.75,30" for case_id in ids), ""])
    )
    try:
        page = get(addresses.COMPARISON, query=f"study={scored.key}&study={other.key}")
        assert page.status == 200
        # 0, 0.25 and 0.5 became 0.75.
        assert ">+0.5<" in page.text
        assert "One run of each does not show how much runs differ" in page.text
        assert page.text.count("<circle") == 3
        assert "over the 3 patients with all scores" in page.text
        for tool in ("comparison", "ranking"):
            assert f"{addresses.job(tool)}/setup?config=" in page.text
        # Replicas of one of them show the noise; without differences between patients, both scores are certain.
        for seed, dice in ((7, 0.76), (8, 0.74)):
            replica = scored.replica(seed)
            replica.results.mkdir(parents=True)
            write_replica(replica.config, ReplicaSeeds(seed=seed))
            rows = [f"{case_id},{dice - 0.5},{30 + seed}" for case_id in ids]
            replica.results_csv.write_text("\n".join(["id,lesion_dice,lesion_haus95", *rows, ""]))
        page = get(addresses.COMPARISON, query=f"study={scored.key}&study={other.key}")
        assert "3 and 1 run" in page.text
        assert f"{other.name} has a single run" in page.text
        assert "[+" in page.text or "[-" in page.text
        assert get(addresses.COMPARISON).status == get(addresses.COMPARISON, query=f"study={scored.key}").status == 200
        assert get(addresses.COMPARISON, query="study=../x").status == 404
    finally:
        shutil.rmtree(scored.replicas_folder, ignore_errors=True)
        (dagster_home() / "studies" / f"{other.name}.yaml").unlink()


def test_dagster_links_to_the_pages_of_what_it_shows(finished: Study, records: dg.DagsterInstance) -> None:
    case = read_train_paths(finished.train_paths).cases[0].id
    pages = {
        ("preprocessed_case", case, "patient page"): addresses.patient(finished, case),
        ("cv_prediction", case, "patient page"): addresses.patient(finished, case),
        ("fold_model", "fold_0", "curves"): addresses.training(finished),
        ("evaluation", None, "study page"): addresses.home(finished),
    }
    for (asset, partition, name), address in pages.items():
        partitions = [partition] if partition else None
        filters = dg.AssetRecordsFilter(asset_key(finished, asset), asset_partitions=partitions)
        (record,) = records.fetch_materializations(filters, limit=1).records
        assert record.asset_materialization
        assert record.asset_materialization.metadata[name] == dg.MetadataValue.url(address)
        assert get(address).status == 200
    graph = build_definitions([finished]).resolve_asset_graph()
    linked = [node for node in graph.asset_nodes if node.metadata.get("study page")]
    assert len(linked) >= 10
    jobs = [job.metadata["study page"] for job in study_jobs(finished) if job.metadata]
    assert jobs == [dg.MetadataValue.url(addresses.home(finished))] * len(STAGES) + jobs[len(STAGES) :]


def contrast(one: str, other: str) -> float:
    """The contrast of two colors as WCAG 2.1 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_has_enough_contrast(theme: int) -> None:
    css = get(f"{addresses.STATIC}/site.css").text
    blocks = re.findall(r":root \{([^}]*--grid[^}]*)\}", css)
    assert len(blocks) == 2
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[theme]))
    for name in ("ink", "faint", "link", "bad", "good", "busy"):
        for ground in ("paper", "raised", "mark"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
