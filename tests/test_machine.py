from __future__ import annotations

from mist_ops.machine import installed_memory


def test_a_machine_has_memory() -> None:
    assert 2**28 < installed_memory() < 2**50
