from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expect import refuses
from training.small_study import small_config

from mist_ops.errors import CaseError
from mist_ops.files import write_array
from mist_ops.study import Study
from mist_ops.training.batches import PatchSampler, PatchSettings
from mist_ops.training.cases import CaseArrays, index_case
from mist_ops.training.distributed import Ranks
from mist_ops.training.loading import default_workers, stream
from mist_ops.types import Size

AUGMENTATIONS = tuple(small_config().training.augmentation.transforms)


def indexed(study: Study, case_id: str, classes: int = 3) -> CaseArrays:
    return index_case(study, case_id, 1, classes)


def sampler_of(
    study: Study,
    ids: str = "abc",
    *,
    augmentations: tuple[str, ...] = AUGMENTATIONS,
    size: Size = (8, 8, 8),
    foreground: float = 0.6,
    **changed: Any,
) -> PatchSampler:
    plain = {"batch_size": 2, "seed": 42, "steps": 4}
    cases = tuple(indexed(study, case_id) for case_id in ids)
    return PatchSampler(cases, PatchSettings(size, foreground, augmentations), **{**plain, **changed})


def sampler_for(
    case: CaseArrays,
    size: Size,
    batch_size: int = 1,
    foreground: float = 1.0,
    augmentations: tuple[str, ...] = (),
    **settings: Any,
) -> PatchSampler:
    """Batches of one case, with one step per epoch."""
    return PatchSampler((case,), PatchSettings(size, foreground, augmentations, **settings), batch_size, steps=1)


def case_of(
    folder: Path, labels: np.ndarray, image: np.ndarray | None = None, dtm: np.ndarray | None = None
) -> CaseArrays:
    study = Study("s", folder, folder)
    write_array(study.image("p"), labels.astype(np.float32) if image is None else image)
    write_array(study.label("p"), labels.astype(np.uint8))
    if dtm is not None:
        write_array(study.dtm("p"), dtm)
    return index_case(study, "p", 1, 4, with_dtm=dtm is not None)


def test_a_batch_depends_on_its_step_alone(study: Study) -> None:
    forwards, backwards = sampler_of(study), sampler_of(study)
    first = [forwards[step] for step in range(5)]
    again = [backwards[step] for step in reversed(range(5))][::-1]
    assert all(
        one.cases == other.cases and one.image.equal(other.image) for one, other in zip(first, again, strict=True)
    )


def test_batches_do_not_depend_on_the_number_of_workers(study: Study) -> None:
    alone, ahead = (list(stream(sampler_of(study), range(2, 7), workers)) for workers in (0, 1))
    assert [(batch.cases, batch.drawn) for batch in alone] == [(batch.cases, batch.drawn) for batch in ahead]
    assert all(
        one.image.equal(other.image) and one.label.equal(other.label) for one, other in zip(alone, ahead, strict=True)
    )


def test_the_stream_does_not_draw_from_the_global_generator(study: Study) -> None:
    before = torch.get_rng_state()
    next(stream(sampler_of(study), range(1), 0))
    assert torch.get_rng_state().equal(before)


def test_two_processes_create_the_patches_of_one_with_twice_the_batch(study: Study) -> None:
    for step in range(5):
        alone = sampler_of(study, batch_size=4)[step].augmented()
        shared = [sampler_of(study, batch_size=2, ranks=Ranks(rank, 2))[step].augmented() for rank in range(2)]
        assert alone.cases == shared[0].cases + shared[1].cases
        assert alone.image.equal(torch.cat([batch.image for batch in shared]))
        assert alone.label.equal(torch.cat([batch.label for batch in shared]))


def test_the_patches_of_one_case_in_a_batch_differ(study: Study) -> None:
    first, second = sampler_of(study, "a")[0].image
    assert not first.equal(second)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"fold": 1}, {"ranks": Ranks(1, 2)}])
def test_another_seed_fold_or_process_gives_other_batches(study: Study, changed: dict[str, Any]) -> None:
    assert not sampler_of(study)[0].image.equal(sampler_of(study, **changed)[0].image)


@pytest.mark.parametrize("ids", ["a", "abc"])
def test_every_batch_is_full_even_from_one_case(study: Study, ids: str) -> None:
    assert {sampler_of(study, ids)[step].image.shape for step in range(8)} == {(2, 1, 8, 8, 8)}


def test_every_case_is_used_equally_often(study: Study) -> None:
    batches = [sampler_of(study)[step] for step in range(9)]
    assert Counter(case for batch in batches for case in batch.cases) == {"a": 6, "b": 6, "c": 6}


def test_processes_that_train_together_share_a_pass(study: Study) -> None:
    ranks = [sampler_of(study, batch_size=1, ranks=Ranks(rank, 3))[0] for rank in range(3)]
    assert {batch.cases[0] for batch in ranks} == {"a", "b", "c"}


def test_a_batch_lists_the_cases_of_its_patches(tmp_path: Path) -> None:
    study = Study("s", tmp_path, tmp_path)
    for value, case_id in enumerate("abc", start=1):
        write_array(study.image(case_id), np.full((8, 8, 8, 1), value, np.float32))
        write_array(study.label(case_id), np.zeros((8, 8, 8, 1), np.uint8))
    batch = sampler_of(study, augmentations=(), batch_size=3)[0]
    assert ["_abc"[int(patch.max())] for patch in batch.image] == list(batch.cases)


def test_every_patch_holds_foreground_at_probability_one(study: Study) -> None:
    sampler = sampler_of(study, foreground=1.0, augmentations=(), size=(3, 3, 3))
    assert all(patch.any() for step in range(20) for patch in sampler[step].label)


def test_a_rare_class_is_drawn_as_often_as_a_common_one(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20, 1))
    labels[:, :, :10], labels[19, 19, 19] = 1, 3
    sampler = sampler_for(case_of(tmp_path, labels), (1, 1, 1))
    values = Counter(int(sampler[step].label) for step in range(400))
    assert values[3] / 400 == pytest.approx(0.5, abs=0.08)
    assert values[1] + values[3] == 400


def test_image_label_and_distance_maps_are_cropped_at_the_same_place(tmp_path: Path) -> None:
    where = np.arange(6 * 5 * 20, dtype=np.float32).reshape(6, 5, 20, 1)
    case = case_of(tmp_path, where % 4, image=where, dtm=where.repeat(4, axis=3))
    batch = sampler_for(case, (4, 4, 4), 3, 0.5, ("flips",))[0].augmented()
    assert batch.dtm is not None
    assert batch.dtm[:, :1].equal(batch.image)
    assert batch.label.equal((batch.image % 4).byte())


def test_distance_maps_in_half_precision_are_converted_to_single(tmp_path: Path) -> None:
    distances = np.linspace(-1, 1, 512, dtype=np.float16).reshape(8, 8, 8, 1).repeat(4, axis=3)
    case = case_of(tmp_path, np.zeros((8, 8, 8, 1)), dtm=distances)
    batch = sampler_for(case, (8, 8, 8), 1, 0.5)[0]
    assert batch.dtm is not None
    assert batch.dtm.equal(torch.from_numpy(distances.astype(np.float32)).movedim(-1, 0)[None])


def test_only_the_flip_axes_are_mirrored(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.float32).reshape(4, 4, 4, 1)
    case = case_of(tmp_path, np.zeros((4, 4, 4, 1)), image=image)
    sampler = sampler_for(case, (4, 4, 4), 16, 0.0, ("flips",), flip_axes=("x", "z"))
    assert {float(patch[0, 0, 0, 0]) for patch in sampler[0].augmented().image} == {0.0, 3.0, 48.0, 51.0}


def test_patches_are_not_rotated_across_thick_slices(tmp_path: Path) -> None:
    heights = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1)
    case = case_of(tmp_path, np.zeros((8, 8, 8, 1)), image=np.broadcast_to(heights, (8, 8, 8, 1)).copy())
    sampler = sampler_for(case, (8, 8, 8), 20, 0.0, ("rotation", "zoom"), spacing=(1.0, 1.0, 5.0))
    patches = sampler[0].augmented().image
    assert patches.allclose(torch.arange(8.0).expand_as(patches), atol=1e-4)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_case_smaller_than_the_patch_is_centered(tmp_path: Path, probability: float) -> None:
    case = case_of(tmp_path, np.ones((4, 5, 20, 1)))
    patch = sampler_for(case, (8, 8, 8), 1, probability)[0].label[0, 0]
    assert patch.any(dim=2).any(dim=1).nonzero().flatten().tolist() == [2, 3, 4, 5]
    # As the sliding window pads: the odd voxel goes after.
    assert patch.any(dim=2).any(dim=0).nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
    assert patch.any(dim=1).any(dim=0).all()


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 6, 7)])
def test_a_case_without_foreground_is_cropped_anywhere(tmp_path: Path, size: Size) -> None:
    image = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7, 1)
    case = case_of(tmp_path, np.zeros((5, 6, 7, 1)), image=image)
    sampler = sampler_for(case, size)
    firsts = {float(sampler[step].image.flatten()[0]) for step in range(600)}
    assert len(firsts) > 150 if size == (1, 1, 1) else firsts == {0.0}


def test_labels_that_are_not_class_indices_are_refused(study: Study) -> None:
    with refuses("labels-out-of-range", CaseError, case="a", file=study.label("a"), found=2):
        index_case(study, "a", 1, 2)


def test_another_number_of_channels_is_refused(study: Study) -> None:
    with refuses("array-shape", CaseError, names="has 1 channel, but this study has 2", file=study.image("a")):
        index_case(study, "a", 2, 3)


@pytest.mark.parametrize("shape", [(10, 10, 11, 1), (12, 10), (12, 10, 11)])
def test_an_image_of_another_size_than_its_labels_is_refused(study: Study, shape: tuple[int, ...]) -> None:
    write_array(study.image("a"), np.zeros(shape, np.float32))
    with refuses("array-shape", CaseError, case="a", found=shape, expected=(12, 10, 11, 1)):
        indexed(study, "a")


def test_no_worker_is_started_on_a_cpu() -> None:
    assert default_workers(8, torch.device("cpu")) == 0
    assert 1 <= default_workers(8, torch.device("cuda")) <= 8
