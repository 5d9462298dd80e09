from __future__ import annotations

from mist_ops.machine import available_memory, installed_memory


def test_a_machine_has_memory() -> None:
    assert 2**28 < installed_memory() < 2**50


def test_less_memory_is_available_than_installed() -> None:
    assert 2**20 < available_memory() < installed_memory()
