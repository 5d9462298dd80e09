from __future__ import annotations

import logging

import pytest
import torch
from inference.settings import settings
from torch import nn

from mist_ops.config import StudyConfig, override
from mist_ops.inference.compiling import Compiled, compile_networks
from mist_ops.inference.sliding_window import predict

CPU = torch.device("cpu")
PATCH = (32, 32, 32)


def config(compiled: bool | None) -> StudyConfig:
    return override(
        settings(),
        {
            "spatial_config.patch_size": PATCH,
            "training.hardware.compile": compiled,
            "training.amp": False,
            "inference.inferer.params.sw_batch_size": 3,
        },
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    # The type checks of our own networks in tests cannot be compiled.
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Conv3d(4, 3, 3, padding=1)
    ).eval()


def test_compiled_networks_have_the_probabilities_of_uncompiled_ones(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model, image = network(), torch.randn(1, 1, 50, 30, 30, generator=torch.Generator().manual_seed(1))
    (compiled,) = compile_networks([model], config(True), CPU, backend="aot_eager")
    assert isinstance(compiled, Compiled)
    assert "compiled network, 3 windows at a time" in caplog.text
    # 16 windows of 8 flips: five batches of three, and one that is padded.
    found, expected = (predict([each], image, config(True), CPU) for each in (compiled, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_network_that_cannot_be_compiled_predicts_uncompiled(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    assert compile_networks([model], config(True), CPU, backend="missing") == [model]
    assert "cannot be compiled and predicts uncompiled" in caplog.text


@pytest.mark.parametrize("compiled", [None, False])
def test_networks_are_compiled_only_on_request(compiled: bool | None) -> None:
    model = network()
    assert compile_networks([model], config(compiled), CPU) == [model]
