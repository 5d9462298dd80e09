"""Which patches the networks of fixed depth take."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mist_ops.errors import ConfigError
from mist_ops.models.multiples import check_patch_size, fit_patch_size
from mist_ops.types import Size, Spacing

ISOTROPIC = (1.0, 1.0, 1.0)

sizes = st.tuples(*[st.integers(1, 400)] * 3)
spacings = st.tuples(*[st.floats(0.05, 20.0)] * 3)
multiples = st.sampled_from([16, 32])


@pytest.mark.parametrize(
    "patch, multiple, message",
    [
        ((100, 96, 96), 32, "100x96x96 is no multiple of 32x32x32. Use 96x96x96 or 128x96x96."),
        ((32, 32, 32), 32, "32x32x32 leaves one voxel at the bottleneck. Use 64x32x32."),
        ((16, 16, 16), 16, "16x16x16 leaves one voxel at the bottleneck. Use 32x16x16."),
        ((17, 16, 16), 16, "17x16x16 is no multiple of 16x16x16. Use 32x16x16."),
        ((256, 256, 5), 32, "256x256x5 is no multiple of 32x32x32. Use 256x256x32."),
        ((0, 16, 16), 16, "0x16x16 is no multiple of 16x16x16. Use 32x16x16."),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_with_the_nearest_that_do(
    patch: Size, multiple: int, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_patch_size(patch, ISOTROPIC, multiple=multiple)
    assert message in str(refusal.value)


def test_the_finest_axis_is_the_one_that_grows() -> None:
    assert fit_patch_size((1, 1, 1), (3.0, 1.0, 1.0), multiple=16) == (16, 32, 16)


@given(sizes, spacings, multiples)
@example((256, 256, 5), (1.0, 1.0, 5.0), 32)
def test_a_fitted_patch_is_always_accepted(patch: Size, spacing: Spacing, multiple: int) -> None:
    check_patch_size(fit_patch_size(patch, spacing, multiple=multiple), spacing, multiple=multiple)


@given(sizes, spacings, multiples)
def test_a_fitted_patch_loses_less_than_the_multiple_and_gains_only_what_it_must(
    patch: Size, spacing: Spacing, multiple: int
) -> None:
    fitted = fit_patch_size(patch, spacing, multiple=multiple)
    rounded = [max(n // multiple, 1) * multiple for n in patch]
    doublings = math.prod(fitted) / math.prod(rounded)
    assert doublings == (2 if max(patch) < 2 * multiple else 1)


@given(sizes, spacings, multiples)
def test_a_legal_patch_is_left_as_it_is(patch: Size, spacing: Spacing, multiple: int) -> None:
    fitted = fit_patch_size(patch, spacing, multiple=multiple)
    assert fit_patch_size(fitted, spacing, multiple=multiple) == fitted


@given(sizes, spacings, multiples)
def test_the_sizes_that_a_refusal_names_are_accepted(patch: Size, spacing: Spacing, multiple: int) -> None:
    try:
        check_patch_size(patch, spacing, multiple=multiple)
    except ConfigError as refusal:
        named = str(refusal).partition("Use ")[2].rstrip(".").split(" or ")
        for x, y, z in (size.split("x") for size in named):
            check_patch_size((int(x), int(y), int(z)), spacing, multiple=multiple)
