"""What only a GPU can show: run on a machine that has one by ``pytest -m gpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expect import refuses
from gpu.conftest import config, enlarged
from training.small_study import FOLD, small_study

from mist_dagster.runtime.gpu import leased_devices
from mist_ops.config import StudyConfig, override
from mist_ops.errors import MachineError
from mist_ops.inference.sliding_window import predict_tiles
from mist_ops.records.passport import Epoch, read_passport
from mist_ops.registry import MODELS
from mist_ops.study import Study
from mist_ops.training.batches import Batch, PatchSampler, PatchSettings
from mist_ops.training.cases import index_case
from mist_ops.training.computing import choose
from mist_ops.training.distributed import Ranks
from mist_ops.training.fold import train_fold
from mist_ops.training.step import batch_loss

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # warnings of compilers differ between versions

PATCH = (32, 32, 32)


def trained(study: Study, device: torch.device, settings: StudyConfig, **options: Any) -> list[Epoch]:
    return list(train_fold(study, settings, FOLD, device=str(device), **options))


def model(study: Study) -> bytes:
    return study.model(0).read_bytes()


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS["nnunet-pocket"].build(1, 3, PATCH, (1.0, 1.0, 1.0))


def batch(study: Study) -> Batch:
    cases = tuple(index_case(study, case_id, 1, 3, False) for case_id in "abc")
    return PatchSampler(cases, PatchSettings(PATCH, 0.6, ()), 2, 4)[0]


def test_deterministic_trainings_have_the_same_weights_also_when_resumed(
    study: Study, device: torch.device, tmp_path: Path
) -> None:
    settings = config(deterministic=True)
    again, resumed = (enlarged(small_study(tmp_path / name)) for name in ("again", "resumed"))
    trained(study, device, settings)
    trained(again, device, settings)
    assert model(again) == model(study)
    run = train_fold(resumed, settings, FOLD, device=str(device))
    next(run)
    run.close()  # type: ignore[attr-defined]
    trained(resumed, device, settings, resume=True)
    assert model(resumed) == model(study)


@pytest.mark.parametrize("cache", ["none", "ram", "device"])
def test_the_loss_of_an_epoch_does_not_depend_on_where_arrays_are(
    study: Study, device: torch.device, cache: str, tmp_path: Path
) -> None:
    plain = enlarged(small_study(tmp_path / "plain"))
    (expected, *_) = trained(plain, device, config(), workers=0)
    (found, *_) = trained(study, device, override(config(), {"training.hardware.cache": cache}), workers=2)
    assert found.training_loss == pytest.approx(expected.training_loss, rel=1e-2)


def test_mixed_precision_has_nearly_the_loss_and_gradient_of_full_precision(study: Study, device: torch.device) -> None:
    found = {}
    for amp in (False, True):
        plain = network().to(device).train()
        settings = config(amp=amp)
        loss = batch_loss(settings, plain, device, Ranks(), 1, choose(settings, device))(batch(study), None)
        loss.backward()
        found[amp] = loss.item(), torch.cat([weight.grad.flatten() for weight in plain.parameters()])
    (full, gradient), (mixed, other) = found[False], found[True]
    assert mixed == pytest.approx(full, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, other, dim=0) > 0.98


def test_compiled_training_has_the_loss_of_uncompiled_training(study: Study, device: torch.device) -> None:
    found = []
    for compiled in (False, True):
        settings = override(config(amp=False), {"training.hardware.compile": compiled})
        loss = batch_loss(settings, network().to(device).train(), device, Ranks(), 1, choose(settings, device))
        assert (loss.uncompiled is None) == compiled
        found.append(loss(batch(study), None).item())
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_prediction_on_a_gpu_equals_one_on_the_cpu_but_for_ties(study: Study, device: torch.device) -> None:
    image = torch.from_numpy(np.load(study.image("d"))).movedim(-1, 0)[None]
    plain = network().eval()
    classes = []
    for place in (torch.device("cpu"), device):
        ((_, probabilities),) = predict_tiles([plain.to(place)], image, config(amp=False), place)
        classes.append(probabilities.cpu().numpy().argmax(0))
    assert np.mean(classes[0] != classes[1]) < 1e-3


def test_memory_that_runs_out_is_an_error_with_advice(study: Study, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("only the memory of a GPU can be limited for a test")
    torch.cuda.set_per_process_memory_fraction(0.001, device)
    try:
        with refuses("out-of-memory", MachineError, names="--batch-size-per-gpu"):
            trained(study, device, config(batch_size_per_gpu=16))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
    assert not study.model(0).exists()


def test_a_leased_gpu_trains_and_is_named_in_the_passport(study: Study, device: torch.device) -> None:
    with leased_devices(None if device.type == "cuda" else "cpu", 1) as names:
        trained(study, torch.device(names[0]), config())
    passport = read_passport(study.model(0))
    assert passport.device == ("cpu" if device.type == "cpu" else torch.cuda.get_device_name(device))
    assert passport.hardware is not None
    assert bool(passport.hardware.peak_gpu_memory) == (device.type == "cuda")
