from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from expect import refuses
from training.small_study import FOLD, small_config

from mist_ops.errors import CaseError, MachineError
from mist_ops.files import write_array
from mist_ops.study import Study
from mist_ops.training import cache, fold
from mist_ops.training.batches import Batch, PatchSampler, PatchSettings
from mist_ops.training.cache import Place, choose_place, load, size_of
from mist_ops.training.cases import CaseArrays, index_case
from mist_ops.training.fold import train_fold
from mist_ops.training.loading import stream, threaded

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
SETTINGS = PatchSettings((8, 14, 8), 0.6, ("flips", "zoom", "noise"))  # Wider than the cases along y.
STEPS = range(3, 9)


def cases_of(study: Study, with_dtm: bool = False) -> tuple[CaseArrays, ...]:
    for seed, case_id in enumerate("abc" if with_dtm else ""):
        distances = np.random.default_rng(seed).standard_normal((12, 10, 11, 3)).astype(np.float16)
        write_array(study.dtm(case_id), distances)
    return tuple(index_case(study, case_id, 1, 3, with_dtm) for case_id in "abc")


def assert_same(one: Batch, other: Batch) -> None:
    assert (one.cases, one.drawn) == (other.cases, other.drawn)
    for name in ("image", "label", "dtm"):
        first, second = getattr(one, name), getattr(other, name)
        assert first is second is None or (first.equal(second) and first.dtype == second.dtype)


@pytest.mark.parametrize("with_dtm", [False, True])
def test_batches_are_the_same_from_files_and_from_memory(study: Study, with_dtm: bool) -> None:
    cases = cases_of(study, with_dtm)
    mapped = PatchSampler(cases, SETTINGS, 3, 4)
    cached = replace(mapped, cases=load(cases, CPU))
    for one, other, ahead in zip(
        stream(mapped, STEPS, 0), stream(cached, STEPS, 0), threaded(cached, STEPS, 2), strict=True
    ):
        assert_same(one, other)
        assert_same(one, ahead)


def test_cached_arrays_are_read_once(study: Study) -> None:
    sampler = PatchSampler(load(cases_of(study), CPU), SETTINGS, 2, 4)
    for case_id in "abc":
        for locate in (study.image, study.label, study.voxels):
            locate(case_id).unlink()
    assert sampler[0].image.shape == (2, 1, 8, 14, 8)


@pytest.mark.parametrize("place", ["ram", "device"])
def test_the_weights_do_not_depend_on_where_arrays_are_kept(study: Study, place: Place) -> None:
    weights = []
    for where in ("none", place):
        config = small_config(**{"epochs": 1, "hardware.cache": where})
        list(train_fold(study, config, FOLD, device="cpu", workers=1))
        weights.append(study.model(0).read_bytes())
    assert weights[0] == weights[1]


def test_threads_yield_in_order_and_raise_the_error_of_a_batch(study: Study) -> None:
    cases = cases_of(study)
    study.image("b").unlink()
    sampler = PatchSampler(cases, SETTINGS, 1, 4)
    steps = list(range(12))
    bad = next(step for step in steps if sampler._case_at(step).id == "b")
    batches = threaded(sampler, steps, 3)
    assert [next(batches).cases[0] for _ in range(bad)] == [sampler._case_at(step).id for step in range(bad)]
    with pytest.raises(FileNotFoundError):
        next(batches)


def test_arrays_with_infinite_values_are_refused_when_they_are_loaded(study: Study) -> None:
    write_array(study.image("b"), np.full((12, 10, 11, 1), np.inf, np.float32))
    with refuses("array-not-finite", CaseError, case="b", file=study.image("b")):
        load(cases_of(study), CPU)


@pytest.mark.parametrize(
    "free_on_device, available, expected",
    [(10.0, 0.0, "device"), (2.0, 10.0, "ram"), (2.0, 1.9, "none")],
)
def test_arrays_are_kept_where_they_fit(
    study: Study, monkeypatch: pytest.MonkeyPatch, free_on_device: float, available: float, expected: Place
) -> None:
    cases = cases_of(study)
    needed = size_of(cases)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_on_device * needed), 0))
    monkeypatch.setattr(cache, "available_memory", lambda: int(available * needed))
    assert choose_place("auto", cases, GPU) == expected
    assert choose_place("ram", cases, GPU) == "ram"


def test_each_process_needs_main_memory_of_its_own(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = cases_of(study)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    monkeypatch.setattr(cache, "available_memory", lambda: 5 * size_of(cases))
    assert [choose_place("auto", cases, GPU, processes) for processes in (2, 3)] == ["ram", "none"]


def test_files_are_not_copied_for_a_cpu(study: Study) -> None:
    assert choose_place("auto", cases_of(study), CPU) == "none"


def test_too_little_memory_names_the_setting(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cases: object, device: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(fold, "load", fail)
    with refuses("out-of-memory", MachineError, names="--cache none"):
        next(train_fold(study, small_config(**{"hardware.cache": "ram"}), FOLD, device="cpu"))
