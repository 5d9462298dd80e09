from __future__ import annotations

import pytest
import torch
from inference.settings import settings
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from mist_ops.config import StudyConfig, override
from mist_ops.inference.flips import flip, flips
from mist_ops.inference.sliding_window import plan, predict, predict_tiles, window_batch

CPU = torch.device("cpu")


def convolution(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv3d(1, classes, 3, padding=1).eval()


def image(seed: int = 2, size: tuple[int, int, int] = (20, 12, 18)) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(1, 1, *size)


def config(strategy: str = "all_flips", blending: str = "gaussian", **values: object) -> StudyConfig:
    changes = {
        "inference.tta.strategy": strategy,
        "inference.inferer.params.patch_blend_mode": blending,
        "inference.inferer.params.sw_batch_size": 2,
        "spatial_config.patch_size": (16, 16, 16),
        "training.amp": False,
    }
    return override(settings(), changes | values)


@pytest.mark.parametrize(
    "strategy, blending, total, highest, counts, voxel",
    [
        ("none", "gaussian", 1544.4359, 0.808691, (1611, 1916, 793), (0.334457, 0.364239, 0.301304)),
        ("none", "constant", 1544.7332, 0.808691, (1617, 1923, 780), (0.334457, 0.364239, 0.301304)),
        ("all_flips", "gaussian", 1545.4729, 0.589604, (1786, 2287, 247), (0.346882, 0.362111, 0.291007)),
        ("all_flips", "constant", 1545.7391, 0.589460, (1784, 2291, 245), (0.346882, 0.362111, 0.291007)),
    ],
)
def test_two_models_match_the_reference(
    strategy: str, blending: str, total: float, highest: float, counts: tuple[int, ...], voxel: tuple[float, ...]
) -> None:
    found = predict([convolution(0), convolution(1)], image(), config(strategy, blending), CPU)
    assert found[1].sum().item() == pytest.approx(total, abs=2e-3)
    assert found.max().item() == pytest.approx(highest, abs=2e-6)
    assert found.argmax(0).flatten().bincount().tolist() == list(counts)
    assert found[:, 3, 4, 5].tolist() == pytest.approx(list(voxel), abs=2e-6)


def test_probabilities_sum_to_one_on_the_grid_of_the_image() -> None:
    found = predict([convolution(0)], image(size=(33, 9, 20)), config(), CPU)
    assert found.shape == (3, 33, 9, 20)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(0), torch.ones(33, 9, 20))


def test_a_mirrored_image_gives_the_mirrored_prediction() -> None:
    # With constant blending and windows that fit exactly, since others have different positions in a mirrored image.
    volume, exact = image(size=(24, 16, 24)), config("all_flips", "constant")
    found = predict([convolution(0)], volume, exact, CPU)
    mirrored = predict([convolution(0)], volume.flip(2, 4), exact, CPU)
    torch.testing.assert_close(mirrored.flip(1, 3), found)


@pytest.mark.parametrize("size", [(37, 12, 18), (9, 7, 5), (16, 33, 20)])
@pytest.mark.parametrize("strategy", ["none", "all_flips"])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.5, 0.3])
def test_windows_are_stitched_as_by_monai(
    size: tuple[int, int, int], strategy: str, blending: str, overlap: float
) -> None:
    chosen = config(strategy, blending, **{"inference.inferer.params.patch_overlap": overlap})
    inferer, model = SlidingWindowInferer((16, 16, 16), 2, overlap, mode=blending), convolution(0)
    turns = flips(chosen.inference.tta)
    with torch.inference_mode():
        expected = [flip(inferer(flip(image(size=size), axes), model), axes).softmax(1)[0] for axes in turns]
    found = predict([model], image(size=size), chosen, CPU)
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 5, 8, 1000])
def test_flips_in_one_batch_have_the_probabilities_of_single_windows(batch: int) -> None:
    sizes: list[int] = []
    model = convolution(0)
    model.register_forward_pre_hook(lambda _, windows: sizes.append(len(windows[0])))
    alone, together = (
        predict([model], image(), config(**{"inference.inferer.params.sw_batch_size": most}), CPU)
        for most in (1, batch)
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    windows = 8 * 2 * 1 * 2
    assert sizes[windows:] == [batch] * (windows // batch) + [windows % batch] * (windows % batch > 0)


@pytest.mark.parametrize("budget", [2**31, 2**18])
def test_probabilities_added_on_a_device_are_those_added_in_main_memory(budget: int) -> None:
    device = torch.device("cpu:0")  # unequal to the place of main memory, as a GPU is
    expected, found = (
        [volumes for _, volumes in predict_tiles([convolution(0), convolution(1)], image(), config(), place, budget)]
        for place in (CPU, device)
    )
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("free", "place"), [(2**30, "cuda"), (2**16, "cpu")])
def test_a_gpu_holds_probabilities_that_fit_into_its_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, place: str
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**30))
    assert plan((20, 12, 18), config(), torch.device("cuda"), 1).place.type == place
    assert plan((20, 12, 18), config(), CPU, 1).place == CPU


def test_a_prediction_does_not_change_the_image() -> None:
    volume = image()
    predict([convolution(0)], volume, config(), CPU)
    assert torch.equal(volume, image())


def test_windows_are_batched_as_configured_or_by_device() -> None:
    gpu = torch.device("cuda")
    assert window_batch(config(), CPU) == window_batch(config(), gpu) == 2
    unset = config(**{"inference.inferer.params.sw_batch_size": None, "training.batch_size_per_gpu": 3})
    assert window_batch(unset, CPU) == 1
    assert window_batch(unset, gpu) == 6
