"""Predictions by tiles equal those of the whole volume."""

from __future__ import annotations

import errno
import math
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from inference.settings import settings
from torch import Tensor, nn

from mist_ops.config import StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.nifti import write_image
from mist_ops.imaging.vectors import read_values
from mist_ops.inference import case, sliding_window
from mist_ops.inference.carrying import Scratch, box_of
from mist_ops.inference.restore import restore, restore_tiles
from mist_ops.inference.sliding_window import DISK, MAIN_MEMORY, predict, predict_tiles
from mist_ops.inference.tiles import Division, Ends, Place, Windows, divide
from mist_ops.types import Box, Size

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


def divided(monkeypatch: pytest.MonkeyPatch, sums: Place, *ends: Ends) -> None:
    """Divide volumes at these planes along x, y and z."""
    monkeypatch.setattr(
        sliding_window,
        "divide",
        lambda windows, n_classes, budget, disk=0: Division(windows, (ends[0], ends[1], ends[2]), sums),
    )


def joined(tiles: Iterable[tuple[Box, Tensor]], size: Size) -> Tensor:
    """Join tiles, whose first planes must be the last ones of other tiles."""
    whole = torch.full((3, *size), torch.nan)
    for box, values in tiles:
        x, y, z = box.slices
        before = whole[:, x, y, z]
        torch.testing.assert_close(torch.where(before.isnan(), values, before), values, rtol=0, atol=0)
        for axis, start in enumerate(box.start):
            assert start == 0 or not before.narrow(1 + axis, 0, 1).isnan().any()
        whole[:, x, y, z] = values
    return whole


@pytest.mark.parametrize("sums", get_args(Place))
@pytest.mark.parametrize("strategy", ["none", "all_flips"])
@pytest.mark.parametrize(
    ("size", "ends", "overlap"),
    [
        ((37, 9, 10), ((4, 12, 20, 37), (9,), (10,)), 0.5),
        ((13, 22, 21), ((4, 13), (8, 16, 22), (8, 12, 21)), 0.3),
        ((13, 12, 7), ((1, 2, 10, 13), (9, 12), (3, 7)), 0.7),
    ],
)
def test_tiles_have_the_probabilities_of_the_whole_volume(
    sums: Place,
    strategy: str,
    overlap: float,
    size: Size,
    ends: tuple[Ends, Ends, Ends],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = config(**{"inference.tta.strategy": strategy, "inference.inferer.params.patch_overlap": overlap})
    models = networks(2 if strategy == "none" else 1)
    whole = predict(models, image(size), chosen, CPU)
    divided(monkeypatch, sums, *ends)
    tiles = joined(predict_tiles(models, image(size), chosen, CPU), size)
    torch.testing.assert_close(tiles, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sums", get_args(Place))
def test_masks_and_probabilities_of_tiles_are_those_of_the_whole_volume(
    sums: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (27, 22, 24)
    write_image(tmp_path / "a.nii.gz", image(size)[0, 0].numpy(), Geometry(size, (1.2, 0.9, 1.0)))
    predictor = case.Predictor(networks(2), config(), CPU)
    found = {}
    for name in ("whole", "tiles"):
        prepared = case.prepare(predictor.config, Case("a", {"mri": tmp_path / "a.nii.gz"}))
        labels = case.predict_prepared(predictor, prepared, tmp_path / f"{name}.nii.gz")
        found[name] = labels, np.stack(list(read_values(tmp_path / f"{name}.nii.gz")))
        divided(monkeypatch, sums, (8, 32), (4, 12, 20), (12, 24))
    (whole, expected), (tiles, probabilities) = found["whole"], found["tiles"]
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-6)
    ordered = np.sort(expected, axis=0)
    near_ties = ordered[-1] - ordered[-2] < 4e-6
    assert np.array_equal(tiles[~near_ties], whole[~near_ties])
    assert near_ties.sum() <= 1e-4 * near_ties.size


def test_no_tile_is_in_memory_while_the_next_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[weakref.ref[Tensor]] = []

    def watched(*arguments: Any, **named: Any) -> Iterator[tuple[Box, Tensor]]:
        for box, volumes in predict_tiles(*arguments, budget=0, **named):
            assert not any(reference() is not None for reference in earlier)
            earlier.append(weakref.ref(volumes))
            yield box, volumes
            del volumes

    monkeypatch.setattr(case, "predict_tiles", watched)
    write_image(tmp_path / "a.nii.gz", image((37, 9, 10))[0, 0].numpy(), Geometry((37, 9, 10), (1.0, 1.0, 1.0)))
    predictor = case.Predictor(networks(1), config(), CPU)
    case.predict_raw(predictor, Case("a", {"mri": tmp_path / "a.nii.gz"}))
    assert len(earlier) > 2


def test_a_small_volume_is_one_tile() -> None:
    [(box, _)] = predict_tiles(networks(1), image((37, 9, 10)), config(), CPU)
    assert box == Box.whole((37, 9, 10))


def test_a_volume_no_larger_than_a_patch_is_never_divided() -> None:
    assert divide(Windows((8, 7, 6), (8, 8, 8), 0.5), 3, budget=0).ends == ((8,), (7,), (6,))


@settings_of_hypothesis(deadline=None, max_examples=25)
@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    patch=st.sampled_from([8, 12, 24]),
    overlap=st.sampled_from([0.0, 0.25, 0.6]),
    budget=st.integers(0, 10**6),
    disk=st.sampled_from([0, 10**5, 10**9]),
    mirrored=st.booleans(),
)
def test_tiles_cover_each_voxel_once_and_windows_each_voxel(
    size: Size, patch: int, overlap: float, budget: int, disk: int, mirrored: bool
) -> None:
    windows = Windows(size, (patch, patch, patch), overlap, 8 if mirrored else 1, mirrored)
    division = divide(windows, 3, budget, disk)
    assert division.bytes_on_disk(3) <= disk
    covered = np.zeros(size, dtype=int)
    computed: list[Size] = []
    for tile in division.tiles():
        covered[division.box(tile).slices] += 1
        computed += division.starts(tile, [mirrored] * 3)
    assert (covered == 1).all()
    along = [windows.starts(axis, mirrored) for axis in range(3)]
    assert set(computed) == set(product(*along))
    assert division.sums == "nowhere" or len(computed) == len(set(computed))
    for axis, voxels in enumerate(size):
        starts = along[axis]
        assert starts[0] <= 0
        assert starts[-1] + patch >= voxels
        assert all(other - one <= patch for one, other in pairwise(starts))


CT = (128, 128, 128)


def test_a_large_ct_fits_the_budget_and_computes_no_window_twice() -> None:
    division = divide(Windows((512, 512, 400), CT, 0.5), 10, MAIN_MEMORY)
    assert division.sums == "memory"
    assert 10**9 <= division.bytes_needed(10) <= MAIN_MEMORY


def test_sums_of_a_whole_body_ct_with_118_classes_are_kept_on_disk() -> None:
    division = divide(Windows((512, 512, 531), CT, 0.5), 118, MAIN_MEMORY, DISK)
    assert division.sums == "disk"
    assert division.bytes_needed(118) <= MAIN_MEMORY


@pytest.mark.parametrize("turns", [1, 8, 40])
@pytest.mark.parametrize("n_classes", [4, 20, 118, 250])
def test_any_volume_fits_into_main_memory_without_a_disk(turns: int, n_classes: int) -> None:
    windows = Windows((800, 900, 1000), CT, 0.5, turns, mirrored=turns > 1)
    assert divide(windows, n_classes, MAIN_MEMORY).bytes_needed(n_classes) <= MAIN_MEMORY


def test_a_whole_body_ct_with_118_classes_fits_on_a_gpu_without_computing_a_window_twice() -> None:
    division = divide(Windows((512, 512, 531), CT, 0.5), 118, budget=32 * 2**30)
    assert division.sums == "memory"
    assert division.bytes_needed(118) <= 32 * 2**30


@pytest.mark.parametrize("sums", get_args(Place))
def test_each_window_is_computed_once_if_sums_are_kept(sums: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    size, seen = (37, 20, 10), [0]
    model = networks(1)[0]
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    windows = Windows(size, (8, 8, 8), 0.5, 8, mirrored=True)
    divided(monkeypatch, sums, (12, 20, 37), (8, 20), (4, 10))
    assert len(list(predict_tiles([model], image(size), config(), CPU))) == 12
    once = 8 * math.prod(len(windows.starts(axis)) for axis in range(3))
    assert (sum(seen) == once) == (sums != "nowhere")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_with_the_folder_of_temporary_files() -> None:
    with Path("/dev/full").open("r+b", buffering=0) as stream, pytest.raises(OSError, match="No space") as caught:
        Scratch(stream).write(torch.zeros(2, 3, 4, 5), None)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, tempfile.gettempdir())


GRIDS = {
    "the same grid": Geometry((30, 9, 8), (1.0, 1.0, 1.0)),
    "a coarser grid": Geometry((19, 6, 5), (1.6, 1.5, 1.7), (0.3, 0.0, 0.2)),
    "a finer grid": Geometry((47, 14, 13), (0.64, 0.63, 0.62)),
    "a mirrored grid": Geometry(
        (30, 9, 8), (1.0, 1.0, 1.0), (29.0, 0.0, 7.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    ),
}


@pytest.mark.parametrize("original", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize(
    "ends",
    [((2, 3, 6, 30), (9,), (8,)), ((30,), (2, 3, 9), (8,)), ((30,), (9,), (1, 6, 8)), ((2, 17, 30), (1, 3, 9), (5, 8))],
)
def test_tiles_are_restored_to_the_labels_of_the_whole_volume(
    original: Geometry, ends: tuple[Ends, Ends, Ends]
) -> None:
    source = Geometry((30, 9, 8), (1.0, 1.0, 1.0))
    geometry = CaseGeometry(original, None, source)
    scores = np.random.default_rng(2).random((3, *source.size), dtype=np.float32)
    division = Division(Windows(source.size, (8, 8, 8), 0.5), ends, "memory")
    boxes = [box_of(division.bordered(tile)) for tile in division.tiles()]
    tiles = [(box, torch.from_numpy(scores[:, *box.slices])) for box in boxes]
    kept = [np.zeros((3, *original.size), dtype=np.float32) for _ in range(2)]
    whole = restore_tiles([(Box.whole(source.size), torch.from_numpy(scores))], geometry, [0, 5, 7], kept[0])
    assert np.array_equal(restore_tiles(tiles, geometry, [0, 5, 7], kept[1]), whole)
    np.testing.assert_allclose(kept[1], kept[0], rtol=0, atol=1e-6)
    assert np.array_equal(whole, restore(scores, geometry, [0, 5, 7]))
    assert set(np.unique(whole)) == {0, 5, 7}
