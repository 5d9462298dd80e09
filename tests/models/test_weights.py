"""Weights files: round trip, errors, and names in files of MIST."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from expect import refuses
from torch import nn
from torch.torch_version import TorchVersion

from mist_ops.errors import ConfigError
from mist_ops.models.weights import load_weights, read_tensors, write_tensors
from mist_ops.registry import MODELS


def network(edge: int = 32) -> nn.Module:
    return MODELS["nnunet-pocket"].build(1, 3, (edge, edge, edge), (1.0, 1.0, 1.0))


def equal(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def in_reference_names(name: str) -> str:
    name = name.replace("downsamples.", "encoder_layers.").replace("upsamples.", "decoder_layers.")
    return f"unet.{name}"


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    saved, loaded = network(), network()
    assert not equal(saved, loaded)
    write_tensors(tmp_path / "fold_0.pt", saved.state_dict())
    load_weights(tmp_path / "fold_0.pt", loaded)
    assert equal(saved, loaded)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_the_reference_load(tmp_path: Path, prefix: str) -> None:
    saved, loaded = network(), network()
    state = {prefix + in_reference_names(name): tensor for name, tensor in saved.state_dict().items()}
    torch.save(state, tmp_path / "fold_0.pt")
    load_weights(tmp_path / "fold_0.pt", loaded)
    assert equal(saved, loaded)


def test_weights_of_another_network_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    write_tensors(tmp_path / "fold_0.pt", network(64).state_dict())
    loaded, before = network(), network()
    before.load_state_dict(loaded.state_dict())
    with refuses("weights-mismatch", ConfigError, file=tmp_path / "fold_0.pt", names="downsamples"):
        load_weights(tmp_path / "fold_0.pt", loaded)
    assert equal(loaded, before)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with refuses("weights-missing", ConfigError, file=tmp_path / "fold_7.pt"):
        load_weights(tmp_path / "fold_7.pt", network())


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_a_corrupted_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fold_0.pt").write_bytes(content)
    with refuses("weights-unreadable", ConfigError, file=tmp_path / "fold_0.pt"):
        load_weights(tmp_path / "fold_0.pt", network())


def test_a_changed_byte_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "fold_0.pt"
    write_tensors(path, {"weight": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refuses("weights-unreadable", ConfigError, file=path):
        read_tensors(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = network().state_dict()
    write_tensors(tmp_path / "fold_0.pt", {name: tensor * float("nan") for name, tensor in weights.items()})
    with refuses("weights-not-finite", ConfigError, file=tmp_path / "fold_0.pt", found=list(weights)):
        load_weights(tmp_path / "fold_0.pt", network())


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('the trap ran')",)

    torch.save({"weight": Trap()}, tmp_path / "fold_0.pt")
    with refuses("weights-unreadable", ConfigError):
        load_weights(tmp_path / "fold_0.pt", network())


@pytest.mark.parametrize("version, warns", [("2.9.1+cu128", True), ("2.10.0", False), ("2.13.0+cpu", False)])
def test_a_version_of_torch_that_may_execute_code_logs_a_warning(
    tmp_path: Path, version: str, warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with refuses("weights-missing"):
        load_weights(tmp_path / "fold_7.pt", nn.Identity())
    assert (f"PyTorch {version}" in caplog.text) == warns


def test_a_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": network().state_dict()}, tmp_path / "fold_0.pt")
    with refuses("weights-invalid", ConfigError, file=tmp_path / "fold_0.pt"):
        load_weights(tmp_path / "fold_0.pt", network())
