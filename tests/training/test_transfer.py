"""Transfer learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from expect import refuses
from torch import Tensor, nn
from training.small_study import small_config

from mist_ops.config import StudyConfig, override, write_config
from mist_ops.errors import ConfigError
from mist_ops.models.weights import write_tensors
from mist_ops.registry import MODELS
from mist_ops.training.pretrained import InputChannels, Pretrained
from mist_ops.training.transfer import check, transfer


def settings(channels: int = 1, patch: int = 32, classes: int = 3, model: str = "nnunet-pocket") -> StudyConfig:
    params = {"in_channels": channels, "out_channels": classes}
    changes = {
        "dataset_info.images": [f"channel {number}" for number in range(channels)],
        "dataset_info.labels": list(range(classes)),
        "model": {"architecture": model, "params": params},
        "spatial_config.patch_size": (patch, patch, patch),
    }
    return override(small_config(), changes)


def built(config: StudyConfig, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    grid = config.spatial_config
    params = config.model.params.model_dump()
    return MODELS[config.model.architecture].build(
        patch_size=grid.patch_size, target_spacing=grid.target_spacing, **params
    )


def source(folder: Path, config: StudyConfig, how: InputChannels = "average") -> tuple[Pretrained, dict[str, Tensor]]:
    weights = built(config, seed=1).state_dict()
    write_tensors(folder / "fold_0.pt", weights)
    write_config(folder / "config.json", config)
    return Pretrained(folder / "fold_0.pt", folder / "config.json", how), weights


def transferred(folder: Path, config: StudyConfig, target: StudyConfig, how: InputChannels) -> tuple[dict, dict, dict]:
    pretrained, weights = source(folder, config, how)
    network = built(target, seed=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert len(transfer(pretrained, target, network).weights) == 64
    return weights, before, network.state_dict()


def test_only_the_encoder_is_loaded(tmp_path: Path) -> None:
    config = settings()
    weights, before, after = transferred(tmp_path, config, settings(classes=5), "average")
    encoder = ("input_block.", "downsamples.", "bottleneck.")
    for name, tensor in after.items():
        assert tensor.equal(weights[name] if name.startswith(encoder) else before[name])


def test_patch_sizes_may_differ_if_the_topology_is_the_same(tmp_path: Path) -> None:
    weights, _, after = transferred(tmp_path, settings(patch=32), settings(patch=48), "average")
    assert after["bottleneck.conv1.conv.weight"].equal(weights["bottleneck.conv1.conv.weight"])


@pytest.mark.parametrize("model", ["fmgnet", "mednext-small"])
def test_other_families_load_their_encoder(model: str, tmp_path: Path) -> None:
    config = settings(model=model)
    weights, before, after = transferred(tmp_path, config, config, "average")
    taken = {name for name in after if name.startswith(MODELS[model].encoder)}
    assert taken
    assert all(after[name].equal(weights[name] if name in taken else before[name]) for name in after)


FIRST = "input_block.conv1.conv.weight"


def test_other_channels_get_the_mean_the_first_or_stay_random(tmp_path: Path) -> None:
    for how in ("average", "first", "skip"):
        weights, before, after = transferred(tmp_path, settings(channels=4), settings(channels=2), how)
        expected = {
            "average": weights[FIRST].mean(dim=1, keepdim=True).expand(-1, 2, -1, -1, -1),
            "first": weights[FIRST][:, :1].expand(-1, 2, -1, -1, -1),
            "skip": before[FIRST],
        }
        assert after[FIRST].equal(expected[how])
        assert after["input_block.conv2.conv.weight"].equal(weights["input_block.conv2.conv.weight"])


def test_the_record_lists_loaded_and_adapted_tensors(tmp_path: Path) -> None:
    pretrained, _ = source(tmp_path, settings(channels=4))
    target = settings(channels=2)
    encoder = transfer(pretrained, target, built(target, seed=2))
    assert encoder.adapted == (FIRST, "input_block.conv3.conv.weight")
    assert encoder.skipped == ()
    assert encoder.loaded + 2 == sum(
        name.startswith(MODELS["nnunet-pocket"].encoder) for name in built(target, 2).state_dict()
    )


@pytest.mark.parametrize(
    "target, field", [(settings(model="nnunet"), "model.architecture"), (settings(patch=64), "spatial_config")]
)
def test_another_network_is_refused_before_it_is_built(target: StudyConfig, field: str, tmp_path: Path) -> None:
    pretrained, _ = source(tmp_path, settings())
    with refuses("pretrained-mismatch", ConfigError, file=pretrained.weights, field=field):
        check(pretrained, target)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    pretrained, _ = source(tmp_path, settings())
    pretrained.config.unlink()
    with refuses("config-missing", ConfigError, file=pretrained.config):
        check(pretrained, settings())
    with refuses("weights-missing", ConfigError, file=tmp_path / "none.pt"):
        check(Pretrained(tmp_path / "none.pt", pretrained.config), settings())


@pytest.mark.parametrize(
    "content, code, names",
    [
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, "weights-invalid", ""),
        ({"other": torch.ones(1)}, "pretrained-mismatch", FIRST),
        ({FIRST: torch.ones(5, 1, 3, 3, 3)}, "pretrained-mismatch", "5x1x3x3x3"),
    ],
)
def test_weights_that_do_not_match_are_refused_and_change_nothing(
    content: dict[str, object], code: str, names: str, tmp_path: Path
) -> None:
    config = settings()
    pretrained, _ = source(tmp_path, config)
    write_tensors(pretrained.weights, content)
    network = built(config, seed=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with refuses(code, ConfigError, names=names, file=pretrained.weights):
        transfer(pretrained, config, network)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


def test_weights_with_names_of_the_reference_are_loaded(tmp_path: Path) -> None:
    config = settings()
    pretrained, weights = source(tmp_path, config)
    names = {"downsamples.": "unet.encoder_layers.", "input_block.": "unet.input_block."}
    names |= {"bottleneck.": "unet.bottleneck."}
    renamed = {
        f"module.{theirs}{name.removeprefix(ours)}": tensor
        for name, tensor in weights.items()
        for ours, theirs in names.items()
        if name.startswith(ours)
    }
    write_tensors(pretrained.weights, renamed)
    network = built(config, seed=2)
    transfer(pretrained, config, network)
    assert network.state_dict()[FIRST].equal(weights[FIRST])
