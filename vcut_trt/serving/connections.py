"""Connections that ask for nothing: how many there may be, and for how long.

Uvicorn has no time for a request to arrive in: a client that sends a byte now and then holds its connection for ever,
and a few hundred of them hold them all. Here headers have `HEADER_SECONDS`, bodies their own; the server and each
address have a number of connections. Where there is no room left, whoever has been longest at its headers makes some.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20.0  # from a connection, or the first byte of another request, to the end of its headers
LOG_SECONDS = 10.0  # between two lines of the same kind

logger = logging.getLogger(__name__)


class Connections:
    """What a server allows its connections, and those that there are.

    Args:
        most: Of all together.
        most_of_one: Of an address. Those of this machine are not counted: a reverse proxy speaks for many.
        body_seconds: From the end of a request's headers to that of its body.
        header_seconds: Before that.
    """

    def __init__(
        self, *, most: int, most_of_one: int, body_seconds: float, header_seconds: float = HEADER_SECONDS
    ) -> None:
        self.body_seconds = body_seconds
        self.header_seconds = header_seconds
        self._most = most
        self._most_of_one = most_of_one
        self._of: Counter[str] = Counter()
        self._at_headers: dict[GuardedProtocol, None] = {}  # the longest first
        self._said: dict[str, tuple[float, int]] = {}

    def refuses(self, address: str) -> str:
        """Why a new connection cannot stay; empty where it can, and is counted."""
        if not _is_own(address) and self._of[address] >= self._most_of_one:
            return f"{self._most_of_one} connections of one address"
        if self._of.total() >= self._most:
            longest = next(iter(self._at_headers), None)
            if longest is None:
                return f"{self._most} connections"
            longest.cut(f"{self._most} connections; the longest without a request")
            self._of[longest.address] -= 1  # it is told so later
            longest.is_counted = False
        self._of[address] += 1
        return ""

    def forget(self, address: str) -> None:
        """A connection that was counted is gone."""
        self._of[address] -= 1
        self._of += Counter()

    def is_at_headers(self, connection: GuardedProtocol, *, yes: bool) -> None:
        """Note whether a connection has yet to say what it wants."""
        if yes:
            self._at_headers.setdefault(connection)
        else:
            self._at_headers.pop(connection, None)

    def say(self, reason: str, address: str) -> None:
        """Log that a connection was closed; of many of a kind, how many."""
        since, count = self._said.get(reason, (float("-inf"), 0))
        now = time.monotonic()
        if now - since < LOG_SECONDS:
            self._said[reason] = (since, count + 1)
            return
        more = f" (and {count} more since the last such line)" if count else ""
        logger.warning("closed a connection of %s: %s%s", address, reason, more)
        self._said[reason] = (now, 0)


def _is_own(address: str) -> bool:
    """Whether an address is this machine's; that of a socket in the file system is."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True


class GuardedProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, for connections that are counted and timed."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = "unknown"
        self.is_counted = False
        self._counted_by = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._phase: object = None  # the request, and what of it is awaited

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else "unknown"
        if reason := self._counted_by.refuses(self.address):
            self.cut(reason)
            return
        self.is_counted = True
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._wait_for(None, 0.0)
        if self.is_counted:
            self.is_counted = False
            self._counted_by.forget(self.address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See H11Protocol."""
        super().on_response_complete()
        self._watch()

    def cut(self, reason: str) -> None:
        """Close the connection now, and say why."""
        self._counted_by.say(reason, self.address)
        self._wait_for(None, 0.0)
        self.transport.abort()

    def _watch(self) -> None:
        """Give what is awaited of the client its time. A trickle of bytes gets no more of it."""
        if self.transport.is_closing():
            self._wait_for(None, 0.0)
        elif self.conn.their_state is h11.SEND_BODY:
            self._wait_for(("body", id(self.cycle)), self._counted_by.body_seconds)
        elif self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._wait_for(("headers", id(self.cycle)), self._counted_by.header_seconds)
        else:  # the client waits for us; or uvicorn's keep-alive watches over it
            self._wait_for(None, 0.0)

    def _wait_for(self, phase: tuple[str, int] | None, seconds: float) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        self._counted_by.is_at_headers(self, yes=phase is not None and phase[0] == "headers")
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if phase is not None:
            reason = f"its {phase[0]} took longer than {seconds:g} s"
            self._deadline = self.loop.call_later(seconds, self.cut, reason)
