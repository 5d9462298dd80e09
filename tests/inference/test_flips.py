from __future__ import annotations

import torch

from mist_ops.config import TtaConfig
from mist_ops.inference.flips import flip, flips

VOLUME = torch.arange(24.0).reshape(2, 3, 4)
ALL_FLIPS = flips(TtaConfig())


def test_there_are_eight_different_flips_and_the_first_changes_nothing() -> None:
    mirrored = {tuple(flip(VOLUME, axes).flatten().tolist()) for axes in ALL_FLIPS}
    assert len(mirrored) == len(ALL_FLIPS) == 8
    assert flip(VOLUME, ALL_FLIPS[0]) is VOLUME


def test_a_repeated_flip_is_the_identity() -> None:
    for axes in ALL_FLIPS:
        assert torch.equal(flip(flip(VOLUME, axes), axes), VOLUME)
        assert torch.equal(flip(VOLUME[None, None], axes)[0, 0], flip(VOLUME, axes))


def test_only_the_strategy_all_flips_flips_and_only_if_enabled() -> None:
    assert flips(TtaConfig(strategy="none")) == flips(TtaConfig(enabled=False)) == ((),)


def test_only_the_configured_axes_are_mirrored() -> None:
    assert flips(TtaConfig(flip_axes=["y", "z"])) == ((), (-2,), (-1,), (-2, -1))
    assert flips(TtaConfig(flip_axes=["z", "z"])) == ((), (-1,))
    assert flips(TtaConfig(flip_axes=[])) == ((),)


def test_flip_axes_are_spatial() -> None:
    mirrored = flip(VOLUME, flips(TtaConfig(flip_axes=["x"]))[1])
    assert torch.equal(mirrored, VOLUME[[1, 0]])
