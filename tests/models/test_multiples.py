"""Patch sizes of networks of fixed depth."""

from __future__ import annotations

import math

import pytest
from expect import refuses
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
    "patch, multiple, supported",
    [
        ((100, 96, 96), 32, [(96, 96, 96), (128, 96, 96)]),
        ((32, 32, 32), 32, [(64, 32, 32)]),
        ((16, 16, 16), 16, [(32, 16, 16)]),
        ((17, 16, 16), 16, [(32, 16, 16)]),
        ((256, 256, 5), 32, [(256, 256, 32)]),
        ((0, 16, 16), 16, [(32, 16, 16)]),
    ],
)
def test_an_unsupported_patch_size_is_refused_with_the_nearest_supported_ones(
    patch: Size, multiple: int, supported: list[Size]
) -> None:
    with refuses("patch-size-unsupported", ConfigError, found=patch, expected=supported):
        check_patch_size(patch, ISOTROPIC, multiple=multiple)


def test_the_finest_axis_grows() -> None:
    assert fit_patch_size((1, 1, 1), (3.0, 1.0, 1.0), multiple=16) == (16, 32, 16)


@given(sizes, spacings, multiples)
@example((256, 256, 5), (1.0, 1.0, 5.0), 32)
def test_a_fitted_patch_is_always_accepted(patch: Size, spacing: Spacing, multiple: int) -> None:
    check_patch_size(fit_patch_size(patch, spacing, multiple=multiple), spacing, multiple=multiple)


@given(sizes, spacings, multiples)
def test_a_fitted_patch_is_rounded_down_and_doubled_only_if_needed(
    patch: Size, spacing: Spacing, multiple: int
) -> None:
    fitted = fit_patch_size(patch, spacing, multiple=multiple)
    rounded = [max(n // multiple, 1) * multiple for n in patch]
    doublings = math.prod(fitted) / math.prod(rounded)
    assert doublings == (2 if max(patch) < 2 * multiple else 1)


@given(sizes, spacings, multiples)
def test_a_supported_patch_is_unchanged(patch: Size, spacing: Spacing, multiple: int) -> None:
    fitted = fit_patch_size(patch, spacing, multiple=multiple)
    assert fit_patch_size(fitted, spacing, multiple=multiple) == fitted


@given(sizes, spacings, multiples)
def test_the_sizes_suggested_by_an_error_are_accepted(patch: Size, spacing: Spacing, multiple: int) -> None:
    try:
        check_patch_size(patch, spacing, multiple=multiple)
    except ConfigError as error:
        for suggested in error.expected:
            check_patch_size(suggested, spacing, multiple=multiple)
