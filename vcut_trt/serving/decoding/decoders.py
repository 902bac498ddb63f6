"""The decoders of a server, shared among its clients: whoever has used them least goes first, and nobody holds all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from vcut_trt.serving.decoding.decoder import Decoder

PLACES = 2  # decoders at work at the same time: each may take a gigabyte
PLACES_OF_ONE = PLACES - 1  # of one client's; the other is there for everybody else


class BusyError(Exception):
    """A client has as many uploads under way as it may."""


class FairTurns:
    """Turns at `places`, of which one client holds `places_of_one` at most.

    Start-time fair queueing: a client's tag is the time that it has used. Who has been away begins at the tag of
    whoever went last, so that nobody saves turns up.
    """

    def __init__(self, places: int, places_of_one: int) -> None:
        self._free = places
        self._places_of_one = places_of_one
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._tags: dict[str, float] = {}
        self._now = 0.0

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn; it lasts as long as the context."""
        waiting = (client, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._give()
        try:
            await waiting[1]
        except asyncio.CancelledError:
            if waiting[1].done() and not waiting[1].cancelled():  # it was given in the same moment
                self._take_back(client, 0.0)
            else:
                self._waiting.remove(waiting)
            raise
        begun = time.monotonic()
        try:
            yield
        finally:
            self._take_back(client, time.monotonic() - begun)

    def _give(self) -> None:
        while self._free and (able := [held for held in self._waiting if self._may(held[0]) and not held[1].done()]):
            first = min(able, key=lambda held: self._tag(held[0]))  # among equals the first that came
            self._waiting.remove(first)
            client, given = first
            self._now = self._tag(client)
            self._free -= 1
            self._held[client] += 1
            given.set_result(None)

    def _take_back(self, client: str, used_seconds: float) -> None:
        self._free += 1
        self._held[client] -= 1
        self._held += Counter()  # drops those that hold none
        self._tags[client] = self._tag(client) + used_seconds
        self._tags = {name: tag for name, tag in self._tags.items() if tag > self._now}  # the others begin at now
        self._give()

    def _may(self, client: str) -> bool:
        return self._held[client] < self._places_of_one

    def _tag(self, client: str) -> float:
        return max(self._now, self._tags.get(client, 0.0))


class Decoders:
    """Decoders and who may use them.

    Args:
        most_pixels: Of a picture.
        most_of_one: Uploads that one client may have under way: each lies on disk until its turn comes.
    """

    def __init__(self, most_pixels: int, most_of_one: int) -> None:
        self._idle = [Decoder(most_pixels) for _ in range(PLACES)]
        self._all = tuple(self._idle)
        self._turns = FairTurns(PLACES, PLACES_OF_ONE)
        self._most_of_one = most_of_one
        self._under_way: Counter[str] = Counter()

    @contextlib.contextmanager
    def upload(self, client: str) -> Iterator[None]:
        """Count an upload, from its first byte to its end.

        Raises:
            BusyError: The client has too many under way.
        """
        if self._under_way[client] >= self._most_of_one:
            raise BusyError(f"{self._most_of_one} uploads are under way, as many as may be")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            self._under_way += Counter()  # drops those that have none

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[Decoder]:
        """A decoder for one picture."""
        async with self._turns.turn(client):
            decoder = self._idle.pop()
            try:
                yield decoder
            finally:
                self._idle.append(decoder)

    def close(self) -> None:
        """End the processes."""
        for decoder in self._all:
            decoder.close()
