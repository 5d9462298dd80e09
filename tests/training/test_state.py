from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from expect import refuses
from torch import nn

from mist_ops.errors import ConfigError
from mist_ops.models.weights import write_tensors
from mist_ops.records.passport import Epoch
from mist_ops.training.state import TrainingState, changes_on_resuming, epochs_done, load_checkpoint, save_checkpoint
from mist_ops.types import Json

SETTINGS: Json = {
    "training.epochs": 3,
    "training.seed": 1,
    "model": {"architecture": "nnunet"},
    "spatial_config.patch_size": [32, 32, 32],
    "training.loss": {"name": "dice"},
    "cases": {"training": {"a": "123", "b": "456"}},
}


def trained_state(steps: int = 2, weight_decay: float = 0.0) -> TrainingState:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    state = TrainingState(0, model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=weight_decay))
    for _ in range(steps):
        model.weight.square().sum().backward()
        state.optimizer.step()
        state.step += 1
    return state


def test_a_loaded_checkpoint_restores_everything(tmp_path: Path) -> None:
    saved, loaded = trained_state(), trained_state(steps=0)
    saved.end_epoch(0.25)
    saved.history.append(Epoch(0, 0.5, 0.25, 0.1, True, 1.0, 0.0))
    save_checkpoint(tmp_path / "c.pt", saved, SETTINGS)
    load_checkpoint(tmp_path / "c.pt", loaded, SETTINGS)
    assert loaded.model.state_dict()["weight"].equal(saved.model.state_dict()["weight"])
    assert loaded.best_weights["weight"].equal(saved.best_weights["weight"])
    assert (loaded.epoch, loaded.step, loaded.best_validation_loss, loaded.history) == (1, 2, 0.25, saved.history)
    one, other = (state.optimizer.state_dict()["state"][0]["exp_avg"] for state in (loaded, saved))
    assert one.equal(other)


def test_a_checkpoint_has_the_number_of_epochs_done(tmp_path: Path) -> None:
    state = trained_state()
    state.end_epoch(0.5)
    state.end_epoch(0.25)
    save_checkpoint(tmp_path / "c.pt", state, SETTINGS)
    assert epochs_done(tmp_path / "c.pt") == 2
    assert epochs_done(tmp_path / "none.pt") == 0


def test_changed_settings_are_listed_before_a_run_resumes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", trained_state(), {**SETTINGS, "pretrained": {"weights": "abc"}})
    assert changes_on_resuming(tmp_path / "c.pt", {**SETTINGS, "training.epochs": 5}) == [
        "training.epochs was 3 and is now 5"
    ]
    with refuses("resume-mismatch", ConfigError, names="cases.training.b was 456 and is now absent"):
        changes_on_resuming(tmp_path / "c.pt", {**SETTINGS, "cases": {"training": {"a": "123", "b": ""}}})


@pytest.mark.parametrize("part", [{"settings": []}, {"history": [{"index": 0}]}])
def test_a_checkpoint_with_other_content_is_refused(tmp_path: Path, part: Json) -> None:
    save_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)
    write_tensors(tmp_path / "c.pt", {**torch.load(tmp_path / "c.pt", weights_only=True), **part})
    with refuses("checkpoint-invalid", ConfigError, file=tmp_path / "c.pt"):
        load_checkpoint(tmp_path / "c.pt", trained_state(steps=0), SETTINGS)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)
    other = TrainingState(0, nn.Linear(3, 1), torch.optim.AdamW(nn.Linear(3, 1).parameters()))
    with refuses("weights-mismatch", ConfigError):
        load_checkpoint(tmp_path / "c.pt", other, SETTINGS)


def test_a_changed_weight_decay_holds_after_resuming(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)
    loaded = trained_state(steps=0, weight_decay=0.5)
    load_checkpoint(tmp_path / "c.pt", loaded, SETTINGS)
    assert loaded.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert loaded.optimizer.state_dict()["state"][0]["step"] == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": {"architecture": "nnunet-pocket"}}, "model.architecture was nnunet and is now nnunet-pocket"),
        ({"spatial_config.patch_size": [64, 64, 64]}, "patch_size was [32, 32, 32] and is now [64, 64, 64]"),
        ({"training.loss": {"name": "dice_ce"}}, "training.loss.name was dice and is now dice_ce"),
        ({"training.seed": 2}, "training.seed was 1 and is now 2"),
        ({"cases": {"training": {"a": "789", "b": "456"}}}, "cases.training.a was 123 and is now 789"),
        ({"cases": {"training": {"a": "123"}}}, "cases.training.b was 456 and is now absent"),
    ],
)
def test_changed_settings_are_refused_with_old_and_new_values(tmp_path: Path, change: Json, words: str) -> None:
    save_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)
    loaded = trained_state(steps=0)
    with refuses("resume-mismatch", ConfigError, names=words, file=tmp_path / "c.pt"):
        load_checkpoint(tmp_path / "c.pt", loaded, {**SETTINGS, **change})
    assert loaded.step == 0


def test_more_epochs_are_accepted_and_recorded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)
    loaded = trained_state(steps=0)
    load_checkpoint(tmp_path / "c.pt", loaded, {**SETTINGS, "training.epochs": 9})
    assert loaded.changes == ["from epoch 1: training.epochs was 3 and is now 9"]


class Malicious:
    """Unpickled without restriction, this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"model": Malicious(tmp_path / "made")}, tmp_path / "c.pt")
    with refuses("weights-unreadable", ConfigError):
        load_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_corrupted_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with refuses("weights-unreadable", ConfigError):
        load_checkpoint(tmp_path / "c.pt", trained_state(), SETTINGS)


def test_a_weights_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.pt", trained_state().model.state_dict())
    with refuses("checkpoint-invalid", ConfigError):
        load_checkpoint(tmp_path / "w.pt", trained_state(), SETTINGS)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.pt", "other.pt"):
        write_tensors(tmp_path / name, trained_state().model.state_dict())
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()
