"""Levels of the U-Nets compared with those of the reference, and the patch sizes that they support."""

from __future__ import annotations

import pytest
from expect import refuses
from hypothesis import given
from hypothesis import strategies as st

from mist_ops.errors import ConfigError
from mist_ops.models.topology import MIN_LEVELS, check_patch_size, fit_patch_size, topology
from mist_ops.types import Size, Spacing

ISOTROPIC = (1.0, 1.0, 1.0)
ALL, PLANE = (2, 2, 2), (2, 2, 1)

sizes = st.tuples(*[st.integers(1, 400)] * 3)
spacings = st.tuples(*[st.floats(0.05, 20.0)] * 3)


@pytest.mark.parametrize(
    "patch, spacing, strides, flat_levels, bottleneck",
    [
        ((32, 32, 32), ISOTROPIC, [ALL] * 3, 0, (4, 4, 4)),
        ((64, 64, 64), ISOTROPIC, [ALL] * 4, 0, (4, 4, 4)),
        ((96, 96, 96), ISOTROPIC, [ALL] * 4, 0, (6, 6, 6)),
        ((128, 128, 128), ISOTROPIC, [ALL] * 5, 0, (4, 4, 4)),
        ((192, 160, 160), ISOTROPIC, [ALL] * 5, 0, (6, 5, 5)),
        ((192, 192, 96), ISOTROPIC, [*[ALL] * 4, PLANE], 0, (6, 6, 6)),
        ((128, 128, 64), (1.0, 1.0, 2.0), [*[ALL] * 4, PLANE], 0, (4, 4, 4)),
        ((128, 128, 64), (1.0, 1.0, 2.1), [PLANE, *[ALL] * 4], 1, (4, 4, 4)),
        ((160, 160, 32), (0.8, 0.8, 2.5), [PLANE, ALL, ALL, ALL, PLANE], 1, (5, 5, 4)),
        ((256, 256, 16), (0.7, 0.7, 3.0), [PLANE, PLANE, ALL, ALL, PLANE], 2, (8, 8, 4)),
        ((256, 256, 5), (1.0, 1.0, 5.0), [PLANE] * 4, 2, (16, 16, 5)),
    ],
)
def test_levels_are_those_of_the_reference(
    patch: Size, spacing: Spacing, strides: list[Size], flat_levels: int, bottleneck: Size
) -> None:
    found = topology(patch, spacing)
    assert found.strides == ((1, 1, 1), *strides)
    assert found.kernels == ((3, 3, 1),) * flat_levels + ((3, 3, 3),) * (len(found.strides) - flat_levels)
    assert tuple(n // step for n, step in zip(patch, found.reduction, strict=True)) == bottleneck


@pytest.mark.parametrize(
    "patch, supported",
    [
        ((100, 100, 100), [(96, 96, 96), (112, 112, 112)]),
        ((16, 16, 16), [(32, 32, 32)]),
        ((33, 32, 32), [(32, 32, 32), (40, 32, 32)]),
    ],
)
def test_an_unsupported_patch_size_is_refused_with_the_nearest_supported_ones(
    patch: Size, supported: list[Size]
) -> None:
    with refuses("patch-size-unsupported", ConfigError, found=patch, expected=supported):
        check_patch_size(patch, ISOTROPIC)


def test_the_error_says_what_to_use_instead() -> None:
    with pytest.raises(ConfigError) as refused:
        check_patch_size((100, 100, 100), ISOTROPIC)
    message = "Patch size 100x100x100 is not a multiple of 16x16x16. Use 96x96x96 or 112x112x112."  # pinned
    assert refused.value.message == message


def test_an_axis_that_is_not_halved_may_have_any_size() -> None:
    check_patch_size((256, 256, 5), (1.0, 1.0, 5.0))


@given(sizes, spacings)
def test_a_fitted_patch_is_always_accepted(patch: Size, spacing: Spacing) -> None:
    check_patch_size(fit_patch_size(patch, spacing), spacing)


@given(sizes, spacings)
def test_a_deep_enough_patch_only_shrinks_and_keeps_its_depth(patch: Size, spacing: Spacing) -> None:
    levels = topology(patch, spacing).strides
    fitted = fit_patch_size(patch, spacing)
    if len(levels) >= MIN_LEVELS:
        assert all(fitted_n <= n for fitted_n, n in zip(fitted, patch, strict=True))
        assert topology(fitted, spacing).strides == levels


@given(sizes, spacings)
def test_the_sizes_suggested_by_an_error_are_accepted(patch: Size, spacing: Spacing) -> None:
    try:
        check_patch_size(patch, spacing)
    except ConfigError as error:
        for suggested in error.expected:
            check_patch_size(suggested, spacing)
