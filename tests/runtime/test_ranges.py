"""Ranges for profilers cost nothing where no profiler listens."""

from __future__ import annotations

from typing import Any

import nvtx
import pytest

from vcut_trt.runtime.ranges import DOMAIN, annotate


class Unprintable:
    """Fails as soon as somebody makes a name of it."""

    def __str__(self) -> str:
        raise AssertionError("formatted")

    __repr__ = __index__ = __int__ = __str__


class UnformattedMessage(str):
    """Fails as soon as somebody fills it in."""

    __slots__ = ()

    def __mod__(self, _details: Any) -> str:
        raise AssertionError("formatted")


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Pretend that a tool listens; the ranges that were opened, with their domains."""
    opened: list[tuple[str, str]] = []

    class Domain:
        pass

    class Range:
        def __init__(self, message: str, domain: str) -> None:
            self._named = (message, domain)

        def __enter__(self) -> None:
            opened.append(self._named)

        def __exit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(nvtx, "Domain", Domain)
    monkeypatch.setattr(nvtx, "get_domain", lambda _name: Domain())
    monkeypatch.setattr(nvtx, "annotate", Range)
    return opened


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tool listens, even if the tests themselves are profiled; nobody may open a range."""

    def opened(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a range was opened")

    monkeypatch.setattr(nvtx, "get_domain", lambda _name: object())
    monkeypatch.setattr(nvtx, "annotate", opened)


@pytest.mark.usefixtures("detached")
def test_without_a_tool_nothing_is_formatted_and_the_context_is_always_the_same() -> None:
    first = annotate("step %d: %s", Unprintable(), Unprintable())
    second = annotate(UnformattedMessage("stage: %s"), "decode")
    assert first is second is annotate("plain")
    with first, second:
        pass


@pytest.mark.skipif(isinstance(nvtx.get_domain(DOMAIN), nvtx.Domain), reason="a tool listens to the tests")
def test_nvtx_itself_says_that_no_tool_listens() -> None:
    with annotate("step %d", Unprintable()) as entered:
        assert entered is None


@pytest.mark.usefixtures("detached")
def test_an_error_inside_a_silent_range_comes_out() -> None:
    with pytest.raises(KeyError, match="mine"), annotate("a"):
        raise KeyError("mine")


def test_with_a_tool_ranges_have_their_names_and_our_domain(attached: list[tuple[str, str]]) -> None:
    with annotate("step %d: %s", 3, "quality improvement"), annotate("stage: decode"):
        pass
    assert attached == [("step 3: quality improvement", "vcut_trt"), ("stage: decode", "vcut_trt")]


def test_the_unprintable_is_unprintable(attached: list[tuple[str, str]]) -> None:
    with pytest.raises(AssertionError, match="formatted"):
        annotate("%s", Unprintable())
    with pytest.raises(AssertionError, match="formatted"):
        annotate(UnformattedMessage("x"))
    assert attached == []
