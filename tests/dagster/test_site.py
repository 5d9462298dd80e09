"""The pages of studies: what they show, and what no address reaches."""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mist_dagster.instance import addresses
from mist_dagster.instance.studies import register
from mist_ops.analysis.folds import assign_folds
from mist_ops.dataset import Assignment, find_training_cases, read_description, read_train_paths, write_train_paths
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

from .browsing import DAGSTER, get


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[Study]:
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
        yield study


@pytest.fixture
def first(listed: Study) -> str:
    return read_train_paths(listed.train_paths).cases[0].id


def test_the_pages_lead_from_all_studies_to_an_image(listed: Study, first: str) -> None:
    index = get(addresses.ROOT)
    assert (index.status, addresses.home(listed) in index.text) == (200, True)
    assert addresses.patient(listed, first) in get(addresses.home(listed)).text
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


@pytest.mark.parametrize("path", ["/studies", "/studies/listed", "/studies/nobody", "/studies/-/site.css"])
def test_every_answer_forbids_scripts_of_others(listed: Study, path: str) -> None:
    headers = get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path.endswith(".css") else "no-store")


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
