"""Files of weights: round trip, refusals, names of other writers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
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


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    saved, loaded = network(), network()
    assert not equal(saved, loaded)
    write_tensors(tmp_path / "fold_0.pt", saved.state_dict())
    load_weights(tmp_path / "fold_0.pt", loaded)
    assert equal(saved, loaded)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_the_reference_fit(tmp_path: Path, prefix: str) -> None:
    saved, loaded = network(), network()
    state = {prefix + in_reference_names(name): tensor for name, tensor in saved.state_dict().items()}
    torch.save(state, tmp_path / "fold_0.pt")
    load_weights(tmp_path / "fold_0.pt", loaded)
    assert equal(saved, loaded)


def test_weights_of_another_network_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "fold_0.pt", network(64).state_dict())
    loaded, before = network(), network()
    before.load_state_dict(loaded.state_dict())
    with pytest.raises(ConfigError, match="belongs to another network: downsamples"):
        load_weights(tmp_path / "fold_0.pt", loaded)
    assert equal(loaded, before)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no .*fold_7\.pt"):
        load_weights(tmp_path / "fold_7.pt", network())


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fold_0.pt").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        load_weights(tmp_path / "fold_0.pt", network())


def test_a_byte_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "fold_0.pt"
    write_tensors(path, {"weight": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        read_tensors(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = network().state_dict()
    write_tensors(tmp_path / "fold_0.pt", {name: tensor * float("nan") for name, tensor in weights.items()})
    with pytest.raises(ConfigError, match="holds weights that are not finite"):
        load_weights(tmp_path / "fold_0.pt", network())


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('the trap ran')",)

    torch.save({"weight": Trap()}, tmp_path / "fold_0.pt")
    with pytest.raises(ConfigError):
        load_weights(tmp_path / "fold_0.pt", network())


@pytest.mark.parametrize("version, told", [("2.9.1+cu128", True), ("2.10.0", False), ("2.13.0+cpu", False)])
def test_a_torch_that_runs_what_it_reads_is_told_of_before_it_reads(
    tmp_path: Path, version: str, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with pytest.raises(ConfigError, match="There is no"):
        load_weights(tmp_path / "fold_7.pt", nn.Identity())
    assert (f"PyTorch {version} can be made to run what is in a file of weights" in caplog.text) == told


def test_a_checkpoint_is_not_taken_for_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": network().state_dict()}, tmp_path / "fold_0.pt")
    with pytest.raises(ConfigError, match="something else"):
        load_weights(tmp_path / "fold_0.pt", network())
