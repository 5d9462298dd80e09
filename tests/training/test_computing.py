from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.small_study import FOLD, TINY, small_config, small_study

from mist_ops import devices
from mist_ops.config import override
from mist_ops.models.weights import read_tensors
from mist_ops.records.passport import Computing, read_passport
from mist_ops.registry import MODELS
from mist_ops.study import Study
from mist_ops.training.computing import choose
from mist_ops.training.fold import train_fold

CPU = torch.device("cpu")
AMX, AVX512, AVX2 = {"amx_bf16", "avx512_bf16"}, {"avx512_bf16"}, set[str]()
FIRST, LAST = "channels_first", "channels_last"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study")


def on(monkeypatch: pytest.MonkeyPatch, instructions: set[str]) -> None:
    monkeypatch.setattr(devices, "_cpu_has", instructions.__contains__)


@pytest.mark.parametrize(
    "name, instructions, expected",
    [
        ("nnunet", AMX, ("bf16", FIRST)),
        ("nnunet", AVX512, ("fp32", FIRST)),
        ("nnunet", AVX2, ("fp32", FIRST)),
        ("wnet", AMX, ("bf16", LAST)),
        ("wnet", AVX2, ("fp32", FIRST)),
        ("mednext-small", AMX, ("fp32", LAST)),
        ("mednext-small", AVX2, ("fp32", FIRST)),
    ],
)
def test_precision_and_memory_format_are_those_of_network_and_processor(
    name: str, instructions: set[str], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, instructions)
    found = choose(override(small_config(), {"model.architecture": name}), CPU)
    assert (found.precision, found.memory_format) == expected


def test_settings_override_precision_and_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, AMX)
    config = override(small_config(amp=False, **{"hardware.memory_format": LAST}), {"model.architecture": "nnunet"})
    assert choose(config, CPU) == Computing(precision="fp32", memory_format=LAST)


def weights(study: Study) -> dict[str, torch.Tensor]:
    return dict(read_tensors(study.model(0)))


def trained(study: Study, stop: int | None = None, memory_format: str = "auto", dropout: float = 0.2) -> None:
    plain = small_config(**{"hardware.memory_format": memory_format})
    config = override(plain, {"model.params": {**plain.model.params.model_dump(), "dropout": dropout}})
    running = train_fold(study, config, FOLD, device="cpu", resume=True, workers=0)
    for epoch in running:
        if epoch.index + 1 == stop:
            running.close()
            return


def test_a_resumed_run_keeps_precision_and_memory_format_bit_for_bit(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an upgrade whose table chooses otherwise."""
    monkeypatch.setitem(MODELS._load(), "tiny", replace(TINY, on_amx=("fp32", LAST)))
    on(monkeypatch, AMX)
    uninterrupted = small_study(tmp_path / "uninterrupted")
    trained(uninterrupted)
    trained(study, stop=1)
    monkeypatch.setitem(MODELS._load(), "tiny", TINY)
    trained(study)
    expected = weights(uninterrupted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(study).items())
    for finished in (uninterrupted, study):
        passport = read_passport(finished.model(0))
        assert passport.computing == Computing(precision="fp32", memory_format=LAST)
        assert passport.changes == ()
    assert all(tensor.is_contiguous() for tensor in weights(study).values())


def test_a_resumed_run_records_that_its_processor_cannot_compute_as_it_began(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, AMX)
    trained(study, stop=1)
    on(monkeypatch, AVX2)
    trained(study)
    passport = read_passport(study.model(0))
    assert passport.changes == ("from epoch 2: precision was bf16 and is now fp32",)
    assert passport.computing == Computing(precision="fp32", memory_format=FIRST)


def test_both_memory_formats_train_to_nearly_the_same_weights(study: Study, tmp_path: Path) -> None:
    """Without dropout, which draws its mask in the order of the memory."""
    other = small_study(tmp_path / "other")
    trained(study, memory_format=FIRST, dropout=0.0)
    trained(other, memory_format=LAST, dropout=0.0)
    expected = weights(other)
    for name, tensor in weights(study).items():
        # Twelve steps of Adam amplify the rounding of FP32.
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3)
