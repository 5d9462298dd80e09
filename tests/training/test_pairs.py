"""A step of every architecture with every loss, and a resumed run of every architecture and of every loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.small_study import FOLD, small_config, small_study

from mist_ops.config import StudyConfig, override
from mist_ops.files import write_array
from mist_ops.imaging.distances import distance_maps
from mist_ops.losses.objective import make_objective
from mist_ops.registry import LOSSES, MODELS
from mist_ops.study import Study
from mist_ops.training.fold import train_fold
from mist_ops.types import Size

SPACING = (1.0, 1.0, 1.0)
LIGHTEST = "nnunet-pocket"


def legal_patch(architecture: str) -> Size:
    return MODELS[architecture].fit_patch_size((32, 32, 32), SPACING)


def step(architecture: str, losses: tuple[str, ...]) -> dict[str, float]:
    """Take a step with each loss on one network; returns each loss before its step."""
    torch.manual_seed(0)
    patch = legal_patch(architecture)
    network = MODELS[architecture].build(1, 3, patch, SPACING).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    classes = torch.zeros((1, 1, *patch), dtype=torch.uint8)
    classes[:, :, 4:20, 4:12, 4:20], classes[:, :, 4:20, 16:24, 4:20] = 1, 2
    image = classes + 0.2 * torch.randn(classes.shape)
    dtm = torch.from_numpy(np.moveaxis(distance_maps(classes[0, 0].numpy(), 3, True), -1, 0).astype(np.float32))[None]
    found = {}
    for name in losses:
        optimizer.zero_grad()
        value = make_objective(name, spacing=SPACING)(network(image), classes, dtm, alpha=0.5)
        value.backward()
        assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)
        optimizer.step()
        found[name] = float(value.detach())
    return found


def assert_every_loss_steps(architecture: str) -> None:
    found = step(architecture, tuple(LOSSES))
    assert set(found) == set(LOSSES)
    assert np.isfinite(list(found.values())).all()


def test_the_lightest_network_takes_a_step_with_every_loss() -> None:
    assert_every_loss_steps(LIGHTEST)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(set(MODELS) - {LIGHTEST}))
def test_a_heavier_network_takes_a_step_with_every_loss(architecture: str) -> None:
    assert_every_loss_steps(architecture)


def study_with_distances(folder: Path, tiles: tuple[int, ...]) -> Study:
    """The small study, repeated along each axis: deep normalizations need variance, which padding does not have."""
    study = small_study(folder)
    for case_id in "abcd":
        for path in (study.image(case_id), study.label(case_id)):
            write_array(path, np.tile(np.load(path), (*tiles, 1)))
        labels = np.load(study.label(case_id))[..., 0]
        write_array(study.dtm(case_id), distance_maps(labels, 3, True))
    return study


def trained(study: Study, config: StudyConfig, stop_after: int | None = None, resume: bool = False) -> None:
    for epoch in train_fold(study, config, FOLD, device="cpu", resume=resume):
        if epoch.index + 1 == stop_after:
            return


def assert_resumes(tmp_path: Path, config: StudyConfig, tiles: tuple[int, ...] = (1, 1, 1)) -> None:
    whole, halves = (study_with_distances(tmp_path / name, tiles) for name in ("whole", "halves"))
    trained(whole, config)
    trained(halves, config, stop_after=1)
    trained(halves, config, resume=True)
    assert whole.model(0).read_bytes() == halves.model(0).read_bytes()
    ends = [torch.load(study.checkpoint(0), weights_only=True)["model"] for study in (whole, halves)]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_resumed_run_with_any_loss_ends_the_same(loss: str, tmp_path: Path) -> None:
    weighting = {"name": "linear", "params": {"init_pause": 1}} if LOSSES[loss].blended_with else None
    settings = {"training.loss": {"name": loss, "composite_loss_weighting": weighting}}
    assert_resumes(tmp_path, override(small_config(), settings))


def settings_of(architecture: str) -> StudyConfig:
    config = small_config(epochs=2, min_steps_per_epoch=1, batch_size_per_gpu=1, warmup_epochs=0)
    patch = legal_patch(architecture)
    changes = {"model.architecture": architecture, "spatial_config.patch_size": patch}
    return override(config, {**changes, "inference.inferer.params.patch_overlap": 0.0})


@pytest.mark.parametrize("architecture", ["nnunet-pocket", "mednext-small"])
def test_a_resumed_run_of_a_light_network_ends_the_same(architecture: str, tmp_path: Path) -> None:
    assert_resumes(tmp_path, settings_of(architecture), tiles=(2, 3, 2))


# swinunetr-large is excluded because its checkpoints take 5 GB each.
@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(set(MODELS) - {"nnunet-pocket", "mednext-small", "swinunetr-large"}))
def test_a_resumed_run_of_a_heavier_network_ends_the_same(architecture: str, tmp_path: Path) -> None:
    assert_resumes(tmp_path, settings_of(architecture), tiles=(5, 3, 3))
