"""Memory that is kept between steps."""

from __future__ import annotations

import os
import platform

import pytest

from recipes.tsmr.training import memory
from recipes.tsmr.training.memory import kept_memory

GLIBC = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="what is said of memory is said to glibc"
)


@pytest.fixture
def unchosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable by which a user has chosen."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)


def test_what_is_freed_is_kept_until_the_end_and_then_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, ...]] = []
    monkeypatch.setattr(memory, "_glibc", lambda: (lambda *at: said.append(at), lambda *at: said.append(at)))
    with kept_memory():
        assert said == [(-3, 2**25), (-1, 2**31 - 1)]
    assert said[2:] == [(-1, 2**26), (0,)]


@GLIBC
@pytest.mark.usefixtures("unchosen")
def test_glibc_takes_what_it_is_told() -> None:
    allocator = memory._glibc()
    assert allocator is not None
    mallopt, trim = allocator
    with kept_memory():
        assert mallopt(-3, 2**25) == mallopt(-1, 2**31 - 1) == 1
    assert trim(0) in (0, 1)


@pytest.mark.usefixtures("unchosen")
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_a_user_says_of_memory_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "131072")
    assert memory._glibc() is None
    with kept_memory():
        pass


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory._glibc() is None
