"""How deep the U-Nets go, against the table of the reference; which patches they take."""

from __future__ import annotations

import pytest
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
    "patch, message",
    [
        ((100, 100, 100), "100x100x100 is no multiple of 16x16x16. Use 96x96x96 or 112x112x112."),
        ((16, 16, 16), "16x16x16 gives a network of 3 levels, but it needs 4. Use 32x32x32."),
        ((33, 32, 32), "33x32x32 is no multiple of 8x8x8. Use 32x32x32 or 40x32x32."),
    ],
)
def test_a_patch_that_does_not_divide_is_refused_with_the_nearest_that_do(patch: Size, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_patch_size(patch, ISOTROPIC)
    assert message in str(refusal.value)


def test_only_axes_that_are_halved_need_to_divide() -> None:
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
def test_the_sizes_that_a_refusal_names_are_accepted(patch: Size, spacing: Spacing) -> None:
    try:
        check_patch_size(patch, spacing)
    except ConfigError as refusal:
        named = str(refusal).partition("Use ")[2].rstrip(".").split(" or ")
        for x, y, z in (size.split("x") for size in named):
            check_patch_size((int(x), int(y), int(z)), spacing)
