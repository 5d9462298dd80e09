"""``mist_evidence`` on studies and packs with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mist_ops.records.reviews import Review, write_review

from .harness import Arguments, Fault, Sandbox, cut_short, edit_json, edit_section, edit_text, fill, meets, remove


def pack(box: Sandbox) -> Path:
    return box.folder / "pack.zip"


def passport(box: Sandbox) -> Path:
    return box.study.passport(0)


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def judge_and_edit(box: Sandbox) -> None:
    """Edit the first of two verdicts in the history."""
    for case_id in ("phantom_001", "phantom_002"):
        write_review(box.study.reviews, Review(case_id, "good"))
    edit_text(box.study.history, lambda text: text.replace("phantom_001", "phantom_003", 1))


def with_file(name: str, content: str, *flags: str) -> Callable[[Sandbox], Arguments]:
    """Write a file beside the study, and give further flags."""

    def change(box: Sandbox) -> Arguments:
        fill(box.folder / name, content)
        return flags

    return change


refused = partial(Fault, touches=False, again=False)

OF_WRITING = [
    refused(
        "evidence/no-model",
        "a study without models",
        lambda box: remove(box.study.models),
        "[model-missing]",
    ),
    refused(
        "evidence/passport-missing",
        "a model without a passport",
        lambda box: remove(passport(box)),
        ("[passport-missing]", "fold_0"),
    ),
    refused(
        "evidence/passport-truncated",
        "a truncated passport",
        lambda box: cut_short(passport(box)),
        ("[passport-invalid]", "fold_0.json"),
    ),
    refused(
        "evidence/weights-truncated",
        "truncated weights",
        lambda box: cut_short(box.study.model(0)),
        ("[evidence-incomplete]", "fold_0.pt", "do not match the passport"),
    ),
    refused(
        "evidence/arrays-of-another",
        "arrays of a training patient that were made from other scans",
        lambda box: edit_json(box.study.geometry("phantom_001"), content="another", arrays={}),
        ("[evidence-incomplete]", "phantom_001"),
    ),
    refused(
        "evidence/arrays-missing",
        "no arrays at all",
        lambda box: remove(box.study.numpy),
        ("[evidence-incomplete]", "phantom_001"),
    ),
    refused(
        "evidence/settings-changed",
        "a setting of the training that changed since",
        lambda box: edit_section(box.study.config, "training", seed=7),
        ("[evidence-incomplete]", "seed"),
    ),
    refused(
        "evidence/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "evidence/history-edited",
        "an edited line in the history",
        judge_and_edit,
        ("[history-changed]", "history.jsonl"),
    ),
    refused(
        "evidence/key-invalid",
        "a file of pseudonyms that holds no key",
        with_file("key", "secret", "--pseudonymize", "key"),
        ("[key-invalid]", "key"),
    ),
    refused(
        "evidence/output-exists",
        "an output that is another file",
        with_file("pack.zip", "mine"),
        ("[output-exists]", "--overwrite"),
    ),
    refused(
        "evidence/output-below-a-file",
        "an output in a folder that is a file",
        with_file("folder", "", "-o", "folder/pack.zip"),
        "[file-not-folder]",
    ),
    Fault(
        "evidence/scores-edited",
        "a table of scores that was edited",
        lambda box: edit_text(box.study.results_csv, lambda text: text.replace("phantom_001,0", "phantom_001,1", 1)),
        "No scores:",
        status=0,
        others_done=lambda box: pack(box).is_file(),
        again=False,
    ),
]


@pytest.mark.parametrize("fault", OF_WRITING, ids=lambda fault: fault.key)
def test_evidence(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "evidence", [trained.study.models, "-o", pack(trained)], fault)


@pytest.fixture
def packed(trained: Sandbox) -> Sandbox:
    """A sandbox with a finished study and its pack."""
    assert trained.run("evidence", trained.study.models, "-o", pack(trained)).status == 0
    return trained


OF_VERIFYING = [
    refused("evidence-verify/pack-missing", "a pack that is missing", lambda box: remove(pack(box)), "[file-missing]"),
    refused(
        "evidence-verify/pack-truncated",
        "a truncated pack",
        lambda box: cut_short(pack(box)),
        ("[pack-changed]", "pack.zip"),
    ),
    refused(
        "evidence-verify/pack-empty",
        "an empty file in place of the pack",
        lambda box: fill(pack(box)),
        ("[pack-changed]", "pack.zip"),
    ),
    refused(
        "evidence-verify/byte-changed",
        "a changed byte in the pack",
        lambda box: change_a_byte(pack(box)),
        ("[pack-changed]", "pack.zip"),
    ),
    refused(
        "evidence-verify/hash-of-another",
        "the hash of another pack beside it",
        lambda box: fill(pack(box).with_name("pack.zip.sha256"), f"{'0' * 64}  pack.zip"),
        "pack.zip.sha256",
    ),
    refused(
        "evidence-verify/image-changed",
        "a changed image of a patient",
        lambda box: change_a_byte(box.image()),
        "phantom_001: t1",
    ),
    refused(
        "evidence-verify/mask-missing",
        "a missing mask of a patient",
        lambda box: remove(box.mask(2)),
        "phantom_002: mask is missing",
    ),
    refused(
        "evidence-verify/no-data",
        "a folder of scans that is missing",
        lambda box: remove(box.folder / "data"),
        "[folder-missing]",
    ),
    refused(
        "evidence-verify/key-invalid",
        "a file of pseudonyms that holds no key",
        with_file("key", "secret", "--pseudonymize", "key"),
        ("[key-invalid]", "key"),
    ),
]


@pytest.mark.parametrize("fault", OF_VERIFYING, ids=lambda fault: fault.key)
def test_verify(packed: Sandbox, fault: Fault) -> None:
    meets(packed, "evidence", ["verify", pack(packed), "--data", packed.folder / "data"], fault)
