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
from mist_ops.inference.slabs import Division, Slab, Windows, divide
from mist_ops.inference.sliding_window import MAIN_MEMORY, predict, predict_slabs
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


def test_a_small_volume_is_one_slab() -> None:
    [(slab, _)] = predict_slabs(networks(1), image((37, 9, 10)), config(), CPU)
    assert slab == Slab(0, 0, 37)


def test_a_volume_no_larger_than_a_patch_is_never_divided() -> None:
    assert divide(Windows((8, 7, 6), (8, 8, 8), 0.5), 3, budget=0).slabs == [Slab(0, 0, 8)]


@given(
    size=st.tuples(*[st.integers(1, 90)] * 3),
    patch=st.sampled_from([8, 16, 24]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    budget=st.integers(0, 10**6),
    mirrored=st.booleans(),
)
def test_slabs_cover_each_plane_once_and_windows_each_voxel(
    size: Size, patch: int, overlap: float, budget: int, mirrored: bool
) -> None:
    windows = Windows(size, (patch, patch, patch), overlap, 8 if mirrored else 1, mirrored)
    slabs = divide(windows, 3, budget).slabs
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == max(size)
    for axis, voxels in enumerate(size):
        starts = windows.starts(axis, mirrored)
        assert starts[0] <= 0
        assert starts[-1] + patch >= voxels
        assert all(other - one <= patch for one, other in pairwise(starts))


def test_a_large_ct_fits_the_budget_and_computes_no_window_twice() -> None:
    windows = Windows((512, 512, 400), (128, 128, 128), 0.5)
    division = divide(windows, 10, MAIN_MEMORY)
    assert division.kept
    assert 10**9 <= division.bytes_needed(windows, 10) <= MAIN_MEMORY


def test_sums_of_many_flips_are_not_kept_if_windows_computed_twice_need_less_memory() -> None:
    windows = Windows((512, 512, 400), (128, 128, 128), 0.5, turns=8, mirrored=True)
    division = divide(windows, 10, MAIN_MEMORY + 2**30)
    assert not division.kept
    assert division.bytes_needed(windows, 10) < Division(division.slabs, kept=True).bytes_needed(windows, 10)


def test_a_whole_body_ct_with_118_classes_fits_on_a_gpu_without_computing_a_window_twice() -> None:
    windows = Windows((512, 512, 531), (128, 128, 128), 0.5)
    division = divide(windows, 118, budget=38 * 2**30)
    assert division.kept
    assert division.bytes_needed(windows, 118) <= 38 * 2**30


@pytest.mark.parametrize("strategy", ["none", "all_flips"])
@pytest.mark.parametrize("share", [0, 0.6])
def test_each_window_is_computed_once_if_sums_are_kept(strategy: str, share: float) -> None:
    chosen, size = config(**{"inference.tta.strategy": strategy}), (37, 9, 10)
    seen: list[int] = []
    model = networks(1)[0]
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    turns = 1 if strategy == "none" else 8
    windows = Windows(size, (8, 8, 8), 0.5, turns, strategy != "none")
    whole = Division([Slab(0, 0, 37)], kept=True).bytes_needed(windows, 3)
    slabs = [slab for slab, _ in predict_slabs([model], image(size), chosen, CPU, budget=int(share * whole))]
    once = turns * len(windows.starts(0)) * len(windows.starts(1)) * len(windows.starts(2))
    division = divide(windows, 3, int(share * whole))
    assert len(slabs) > 1
    assert (sum(seen) == once) == division.kept


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
    tensors = [(slab, torch.from_numpy(np.ascontiguousarray(part))) for slab, part in parts]
    assert np.array_equal(restore_slabs(tensors, geometry, [0, 5, 7]), whole)
    assert set(np.unique(whole)) == {0, 5, 7}
