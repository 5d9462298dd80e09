"""Predictions by slabs equal those of the whole volume."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inference.settings import settings
from torch import Tensor, nn

from mist_ops.config import StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.nifti import write_image
from mist_ops.inference import case
from mist_ops.inference.restore import restore, restore_slabs
from mist_ops.inference.slabs import Slab, divide, reach, slab_bytes
from mist_ops.inference.sliding_window import memory_budget, predict, predict_slabs
from mist_ops.types import Size

CPU = torch.device("cpu")


def networks(count: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1)).eval() for _ in range(count)]


def image(size: Size) -> Tensor:
    return torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))


def config(**changes: object) -> StudyConfig:
    values = {
        "spatial_config.patch_size": (8, 8, 8),
        "training.amp": False,
        "inference.inferer.params.sw_batch_size": 3,
    }
    return override(settings(), values | changes)


def joined(slabs: list[tuple[Slab, Tensor]]) -> Tensor:
    """Concatenate slabs without the planes that they repeat."""
    axis = 1 + slabs[0][0].axis
    return torch.cat(
        [part.narrow(axis, min(n, 1), part.shape[axis] - min(n, 1)) for n, (_, part) in enumerate(slabs)], axis
    )


@pytest.mark.parametrize("strategy", ["none", "all_flips"])
@pytest.mark.parametrize("size", [(37, 9, 10), (9, 41, 6), (7, 8, 30), (13, 29, 29)])
@pytest.mark.parametrize("overlap", [0.5, 0.3])
def test_slabs_have_the_probabilities_of_the_whole_volume(strategy: str, size: Size, overlap: float) -> None:
    chosen = config(**{"inference.tta.strategy": strategy, "inference.inferer.params.patch_overlap": overlap})
    models = networks(2 if strategy == "none" else 1)
    slabs = list(predict_slabs(models, image(size), chosen, CPU, budget=0))
    assert len(slabs) > 2
    torch.testing.assert_close(joined(slabs), predict(models, image(size), chosen, CPU), rtol=0, atol=1e-6)


def test_a_slab_begins_with_the_last_plane_of_the_previous_one() -> None:
    slabs = list(predict_slabs(networks(1), image((37, 9, 10)), config(), CPU, budget=0))
    for (one, before), (other, after) in pairwise(slabs):
        assert other.start == one.stop - 1
        assert after[:, 0].equal(before[:, -1])


def test_no_slab_is_in_memory_while_the_next_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[weakref.ref[Tensor]] = []

    def watched(*arguments: Any) -> Iterator[tuple[Slab, Tensor]]:
        for slab, volumes in predict_slabs(*arguments, budget=0):
            assert not any(reference() is not None for reference in earlier)
            earlier.append(weakref.ref(volumes))
            yield slab, volumes
            del volumes

    monkeypatch.setattr(case, "predict_slabs", watched)
    write_image(tmp_path / "a.nii.gz", image((37, 9, 10))[0, 0].numpy(), Geometry((37, 9, 10), (1.0, 1.0, 1.0)))
    predictor = case.Predictor(networks(1), config(), CPU)
    case.predict_raw(predictor, Case("a", {"mri": tmp_path / "a.nii.gz"}))
    assert len(earlier) > 2


def test_the_budget_is_larger_on_a_machine_with_a_gpu() -> None:
    assert memory_budget(CPU) == 3 * 2**30 <= memory_budget(torch.device("cuda"))


def test_a_small_volume_is_one_slab() -> None:
    [(slab, _)] = predict_slabs(networks(1), image((37, 9, 10)), config(), CPU)
    assert slab == Slab(0, 0, 37)


def test_a_volume_no_larger_than_a_patch_is_never_divided() -> None:
    assert divide((8, 7, 6), (8, 8, 8), 0.5, 3, budget=0) == [Slab(0, 0, 8)]


@given(
    size=st.tuples(*[st.integers(1, 90)] * 3),
    patch=st.sampled_from([8, 16, 24]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    budget=st.integers(0, 10**6),
)
def test_slabs_cover_each_plane_once_and_reach_all_their_windows(
    size: Size, patch: int, overlap: float, budget: int
) -> None:
    slabs = divide(size, (patch, patch, patch), overlap, 3, budget)
    planes = max(size)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == planes
    for slab in slabs:
        seen = reach(slab, planes, patch, overlap)
        assert seen.start <= slab.start < slab.stop <= seen.stop <= planes


def test_a_large_ct_fits_the_budget() -> None:
    size, patch = (512, 512, 400), (128, 128, 128)
    slabs = divide(size, patch, 0.5, 10, memory_budget(CPU))
    assert slab_bytes(slabs, size, patch, 0.5, 10) <= 3 * 2**30
    assert slab_bytes(slabs[:1], size, patch, 0.5, 10) >= 10**9
    assert sum(reach(slab, 512, 128, 0.5).thickness for slab in slabs) <= 2 * 512


GRIDS = {
    "the same grid": Geometry((30, 9, 8), (1.0, 1.0, 1.0)),
    "a coarser grid": Geometry((19, 6, 5), (1.6, 1.5, 1.7), (0.3, 0.0, 0.2)),
    "a finer grid": Geometry((47, 14, 13), (0.64, 0.63, 0.62)),
    "a mirrored grid": Geometry(
        (30, 9, 8), (1.0, 1.0, 1.0), (29.0, 0.0, 7.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    ),
}


@pytest.mark.parametrize("original", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_are_restored_to_the_labels_of_the_whole_volume(original: Geometry, axis: int) -> None:
    source = Geometry((30, 9, 8), (1.0, 1.0, 1.0))
    geometry = CaseGeometry(original, None, source)
    scores = np.random.default_rng(2).random((3, *source.size), dtype=np.float32)
    cuts = [0, 2, 3, 6, source.size[axis]]
    slabs = [Slab(axis, max(start - 1, 0), stop) for start, stop in pairwise(cuts)]
    parts = [(slab, scores[(slice(None),) * (axis + 1) + (slice(slab.start, slab.stop),)]) for slab in slabs]
    whole = restore(scores, geometry, [0, 5, 7])
    assert np.array_equal(restore_slabs(parts, geometry, [0, 5, 7]), whole)
    assert set(np.unique(whole)) == {0, 5, 7}
