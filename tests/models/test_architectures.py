"""Every architecture: common behavior, and weights and outputs compared with the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from expect import refuses
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mist_ops.errors import ConfigError
from mist_ops.models.weights import load_weights
from mist_ops.registry import MODELS
from mist_ops.types import Size, Spacing

ISOTROPIC = (1.0, 1.0, 1.0)
TOO_LARGE = {"mednext-medium", "mednext-large", "swinunetr-base", "swinunetr-large"}
"""Built on the meta device only: they differ from a smaller one of their family in widths."""

SMALL_ENOUGH = sorted(set(MODELS) - TOO_LARGE)


class LinspaceOnCpu(TorchFunctionMode):
    """MONAI's Swin transformer reads numbers from a ``linspace``, which the meta device does not hold."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {}))


def on_meta_device(name: str, patch: Size, spacing: Spacing = ISOTROPIC, channels: int = 1, classes: int = 3) -> Any:
    with torch.device("meta"), LinspaceOnCpu():
        return MODELS[name].build(channels, classes, patch, spacing)


def smallest(name: str) -> tuple[nn.Module, Tensor]:
    patch = MODELS[name].fit_patch_size((1, 1, 1), ISOTROPIC)
    return MODELS[name].build(1, 3, patch, ISOTROPIC), torch.randn(
        1, 1, *patch, generator=torch.Generator().manual_seed(0)
    )


FP32_ROUNDING = {"fmgnet": 1e-4, "wnet": 5e-4, "swinunetr-small": 1e-4}
"""Largest difference between FP32 on one processor and float64, where it exceeds 1e-5.

The multigrid networks normalize levels of one to eight voxels, which amplifies rounding: FP32 results of two processors
differ by as much.
"""


FP32_ERROR = {"fmgnet": 0.05, "wnet": 0.15}
"""Largest relative error of FP32 logits against float64, where it exceeds 1e-3, for the same reason.

Over 13 inputs and two instruction sets it was at most 0.003 and 0.026, with a long tail.
A wrong computation has about 1.
"""


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def set_by_formula(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            values = 0.05 * torch.arange(1, parameter.numel() + 1, dtype=torch.float64).sin()
            parameter.data = values.reshape(parameter.shape).float()
        else:
            parameter.data = torch.full_like(parameter, 0.01 if name.endswith("bias") else 1.0)


def waves(patch: Size) -> Tensor:
    voxels = patch[0] * patch[1] * patch[2]
    return (0.01 * torch.arange(voxels, dtype=torch.float64)).sin().float().reshape(1, 1, *patch)


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_a_network_trains_on_its_smallest_patch_and_predicts_one_tensor(name: str) -> None:
    network, patch = smallest(name)
    logits = network.train()(patch)
    assert isinstance(logits, list)
    assert logits[0].shape == (1, 3, *patch.shape[2:])
    for finer, coarser in pairwise(logits):
        assert coarser.shape[2:] == tuple(max(n // 2, 1) for n in finer.shape[2:])
    sum(head.square().mean() for head in logits).backward()
    # A weight without a gradient would stop training on several GPUs.
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in network.parameters())
    with torch.no_grad():
        assert network.eval()(patch).shape == logits[0].shape


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_parameter_is_refused(name: str) -> None:
    with refuses("unknown-parameter", ConfigError, names=name, found=["depth"]):
        MODELS[name].build(1, 3, (64, 64, 64), ISOTROPIC, depth=3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("patch, spacing", [((16, 16, 8), ISOTROPIC), ((100, 100, 100), ISOTROPIC)])
def test_an_unsupported_patch_size_is_refused(name: str, patch: Size, spacing: Spacing) -> None:
    with refuses("patch-size-unsupported", ConfigError, found=patch):
        MODELS[name].build(1, 3, patch, spacing)


@pytest.mark.parametrize("name", MODELS)
def test_a_patch_as_thin_as_the_images_is_fitted(name: str) -> None:
    spacing = (1.0, 1.0, 5.0)
    on_meta_device(name, MODELS[name].fit_patch_size((256, 256, 5), spacing), spacing)


@pytest.mark.parametrize(
    "name, patch, spacing, expected",
    [
        ("nnunet", (32, 32, 32), ISOTROPIC, 5_645_769),
        ("nnunet", (64, 64, 64), ISOTROPIC, 16_671_305),
        ("nnunet", (128, 128, 128), ISOTROPIC, 31_420_425),
        ("nnunet", (256, 256, 16), (0.7, 0.7, 3.0), 30_784_969),
        ("nnunet", (64, 64, 8), (1.0, 1.0, 4.0), 16_185_353),
        ("nnunet-pocket", (32, 32, 32), ISOTROPIC, 472_457),
        ("nnunet-pocket", (256, 256, 16), (0.7, 0.7, 3.0), 644_617),
        ("fmgnet", (32, 32, 32), ISOTROPIC, 1_464_329),
        ("fmgnet", (256, 256, 16), (0.7, 0.7, 3.0), 2_903_977),
        ("wnet", (32, 32, 32), ISOTROPIC, 2_328_617),
        ("wnet", (256, 256, 16), (0.7, 0.7, 3.0), 5_544_361),
    ],
)
def test_a_network_has_as_many_weights_as_the_reference(
    name: str, patch: Size, spacing: Spacing, expected: int
) -> None:
    assert parameters(on_meta_device(name, patch, spacing)) == expected


@pytest.mark.parametrize(
    "name, edge, weights, entries, in_encoder",
    [
        ("nnunet", 64, 16_671_305, 83, 8_618_560),
        ("nnunet", 128, 31_420_425, 100, 14_252_480),
        ("nnunet-pocket", 64, 620_265, 83, 254_784),
        ("nnunet-pocket", 128, 768_073, 100, 311_296),
        ("fmgnet", 64, 2_242_601, 295, 254_784),
        ("fmgnet", 128, 3_170_793, 415, 311_296),
        ("wnet", 64, 3_942_505, 495, 254_784),
        ("wnet", 128, 5_856_233, 735, 311_296),
        ("mednext-small", 64, 5_553_839, 236, 3_572_608),
        ("mednext-base", 64, 10_513_775, 236, 6_849_856),
        ("mednext-medium", 64, 17_536_431, 364, 12_476_256),
        ("mednext-large", 128, 61_729_679, 524, 46_699_808),
        ("swinunetr-small", 64, 18_346_869, 167, 5_756_498),
        ("swinunetr-base", 64, 72_762_117, 167, 19_578_554),
        ("swinunetr-large", 128, 290_390_949, 167, 74_836_106),
    ],
)
def test_weights_and_encoder_have_the_size_of_the_reference(
    name: str, edge: int, weights: int, entries: int, in_encoder: int
) -> None:
    network = on_meta_device(name, (edge, edge, edge))
    state = network.state_dict()
    encoder = [tensor for key, tensor in state.items() if key.startswith(MODELS[name].encoder)]
    assert parameters(network) == weights
    assert len(state) == entries
    assert sum(tensor.numel() for tensor in encoder) == in_encoder


@pytest.mark.parametrize(
    "name, digest",
    [
        ("fmgnet", "5eaa09a12f92"),
        ("mednext-base", "9d10f216a292"),
        ("mednext-large", "b7e274a378b8"),
        ("mednext-medium", "54bc7dc9f9c1"),
        ("mednext-small", "97ec1fa1a9d6"),
        ("nnunet", "d96d68026bbe"),
        ("nnunet-pocket", "ac1c5104642a"),
        ("swinunetr-base", "4049e48568b3"),
        ("swinunetr-large", "c1f66670637d"),
        ("swinunetr-small", "2d80f0d63232"),
        ("wnet", "38dfd29c60b0"),
    ],
)
def test_names_shapes_and_types_in_the_state_dict_are_stable(name: str, digest: str) -> None:
    # Files of weights load strictly, so a renamed layer would make every trained model unusable.
    state = on_meta_device(name, (64, 64, 64)).state_dict()
    lines = [f"{key} {tuple(tensor.shape)} {tensor.dtype}" for key, tensor in state.items()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12] == digest


@pytest.mark.parametrize(
    "name, expected", [("nnunet", 31_423_340), ("nnunet-pocket", 770_860), ("fmgnet", 3_173_580), ("wnet", 5_859_020)]
)
def test_channels_and_classes_change_only_the_first_and_last_layers(name: str, expected: int) -> None:
    assert parameters(on_meta_device(name, (128, 128, 128), channels=4, classes=4)) == expected


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_every_weight_has_one_name(name: str) -> None:
    state = smallest(name)[0].state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize(
    "name, patch, spacing, mean, std, voxel, head_means, head_stds",
    [
        ("nnunet", (32, 32, 32), ISOTROPIC, 0.019802, 0.026207, (0.02507, 0.03107, 0.03008),
         (0.02036, 0.0133), (0.04865, 0.21687)),
        ("nnunet", (64, 64, 8), (1.0, 1.0, 4.0), 0.017157, 0.028490, (0.00845, 0.00852, 0.00909),
         (0.01786, 0.01255), (0.05243, 0.14404)),
        ("nnunet-pocket", (32, 32, 32), ISOTROPIC, 0.019785, 0.026256, (0.03132, 0.02965, 0.02147),
         (0.01905, 0.02061), (0.0268, 0.02668)),
        ("fmgnet", (32, 32, 32), ISOTROPIC, 0.024209, 0.124698, (0.07783, 0.1031, 0.09751),
         (0.02217, 0.02295), (0.07666, 0.07497)),
        ("wnet", (32, 32, 32), ISOTROPIC, 0.024732, 0.123904, (0.15296, 0.15638, 0.11127),
         (0.02705, 0.0272), (0.05025, 0.04395)),
        ("mednext-small", (32, 32, 32), ISOTROPIC, 0.011544, 0.028958, (0.02234, 0.02105, 0.0161),
         (0.01334, 0.01159, 0.01992, 0.0113), (0.00817, 0.02454, 0.05337, 0.00369)),
        ("mednext-base", (32, 32, 32), ISOTROPIC, 0.011540, 0.028958, (0.02247, 0.02115, 0.01613),
         (0.0133, 0.01159, 0.01998, 0.01129), (0.00788, 0.02458, 0.05354, 0.00368)),
        ("swinunetr-small", (64, 64, 32), ISOTROPIC, 0.028182, 0.140171, (-0.0253, -0.04734, -0.00335), (), ()),
    ],
)  # fmt: skip
def test_a_network_computes_what_the_reference_computes(
    name: str,
    patch: Size,
    spacing: Spacing,
    mean: float,
    std: float,
    voxel: tuple[float, ...],
    head_means: tuple[float, ...],
    head_stds: tuple[float, ...],
) -> None:
    # In float64, which gives the same result on every processor. The numbers of the reference are FP32 on one of them.
    network = MODELS[name].build(1, 3, patch, spacing)
    set_by_formula(network)
    with torch.no_grad():
        logits, *heads = network.double().train()(waves(patch).double())
    rounding = FP32_ROUNDING.get(name, 1e-5)
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((mean, std), abs=rounding / 10)
    assert logits[0, :, 5, 6, 7].tolist() == pytest.approx(voxel, abs=rounding)
    assert [head.mean().item() for head in heads] == pytest.approx(head_means, abs=rounding)
    # The reference upsamples the heads first, which changes the divisor n - 1 of the standard deviation.
    assert [head.std(correction=0).item() for head in heads] == pytest.approx(head_stds, abs=rounding)


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_fp32_agrees_with_float64(name: str) -> None:
    network, patch = smallest(name)
    set_by_formula(network)
    with torch.no_grad():
        single = network.eval()(patch).double()
        double = network.double()(patch.double())
    assert ((single - double).square().mean().sqrt() / double.std()).item() < FP32_ERROR.get(name, 1e-3)


@pytest.mark.parametrize(
    "name, prefix", [("mednext-small", ""), ("fmgnet", ""), ("wnet", ""), ("swinunetr-small", "model.")]
)
def test_weights_of_the_reference_load(name: str, prefix: str, tmp_path: Path) -> None:
    # Those of nnU-Net, whose names differ more, are in test_weights.
    (saved, _), (loaded, _) = smallest(name), smallest(name)
    torch.save({prefix + key: tensor for key, tensor in saved.state_dict().items()}, tmp_path / "fold_0.pt")
    load_weights(tmp_path / "fold_0.pt", loaded)
    theirs = loaded.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in saved.state_dict().items())
