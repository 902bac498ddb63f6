"""Turns at the decoders: fair among clients, whoever sends most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from vcut_trt.serving.decoding import decoders as decoders_module
from vcut_trt.serving.decoding.decoders import BusyError, Decoders, FairTurns


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(decoders_module.time, "monotonic", lambda: self.now)  # type: ignore[attr-defined]


class Turns:
    """Clients that wait for turns, and end them when told."""

    def __init__(self, places: int, places_of_one: int) -> None:
        self.fair = FairTurns(places, places_of_one)
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str) -> None:
        """Each name is a client's, its first letter, and a number."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._hold(name))
            await settled()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await settled()

    async def _hold(self, name: str) -> None:
        async with self.fair.turn(name[0]):
            self.begun.append(name)
            await self.ends[name].wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_one_client_leaves_a_place_to_the_others() -> None:
    async def test() -> None:
        turns = Turns(2, 1)
        await turns.ask("a1", "a2", "a3")
        assert turns.begun == ["a1"]
        await turns.ask("b1")
        assert turns.begun == ["a1", "b1"]
        await turns.end("a1")
        assert turns.begun == ["a1", "b1", "a2"]
        for name in ("b1", "a2", "a3"):
            await turns.end(name)

    run(test)


def test_who_has_used_least_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def test() -> None:
        turns = Turns(1, 1)
        await turns.ask("a1", "a2", "a3", "b1", "b2", "b3")
        for name, seconds in (("a1", 10), ("b1", 1), ("b2", 1), ("b3", 1)):
            assert turns.begun[-1] == name
            clock.now += seconds
            await turns.end(name)
        assert turns.begun == ["a1", "b1", "b2", "b3", "a2"]
        await turns.end("a2")
        await turns.end("a3")

    run(test)


def test_nobody_saves_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def test() -> None:
        turns = Turns(1, 1)
        for number in range(5):  # b alone, for a long time
            await turns.ask(f"b{number}")
            clock.now += 100
            await turns.end(f"b{number}")
        await turns.ask("b5", "a1", "b6", "a2")
        for name in ("b5", "a1", "b6"):
            assert turns.begun[-1] == name
            clock.now += 300
            await turns.end(name)
        await turns.end("a2")

    run(test)


def test_whoever_gives_up_leaves_no_place_taken() -> None:
    async def test() -> None:
        turns = Turns(1, 1)
        await turns.ask("a1", "b1", "c1")
        turns.tasks["b1"].cancel()  # while it waits
        await settled()
        turns.ends["a1"].set()
        await turns.tasks["a1"]  # c1 has its turn, and does not know yet
        turns.tasks["c1"].cancel()
        await settled()
        await turns.ask("d1")
        assert turns.begun[-1] == "d1"
        await turns.end("d1")
        assert not turns.fair._waiting
        assert not turns.fair._held

    run(test)


def test_whoever_gives_up_as_a_place_becomes_free_is_passed_over() -> None:
    async def test() -> None:
        turns = Turns(1, 1)
        await turns.ask("a1", "b1", "c1")
        turns.ends["a1"].set()
        turns.tasks["b1"].cancel()  # its future is cancelled, its task has not run yet
        await settled()
        assert turns.begun == ["a1", "c1"]
        await turns.end("c1")
        assert not turns.fair._waiting

    run(test)


def test_uploads_under_way_are_counted() -> None:
    decoders = Decoders(10**6, most_of_one=2)
    with decoders.upload("a"), decoders.upload("a"):
        with pytest.raises(BusyError, match="2 uploads are under way"), decoders.upload("a"):
            pass
        with decoders.upload("b"):
            pass
    with decoders.upload("a"):
        pass
    assert not decoders._under_way
