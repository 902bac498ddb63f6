"""Connections that ask for nothing, or take their time: each ends, and others are let in meanwhile."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request

from vcut_trt.serving import connections as connections_module
from vcut_trt.serving.connections import Connections, GuardedProtocol

PATIENCE_SECONDS = 240.0  # a guard against hanging only
LONG, SHORT = 3600.0, 1.0
GET = b"GET /there HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def serving(**limits: Any) -> Iterator[tuple[str, int]]:
    """The address of a server with these connections; other limits are far away."""
    app = FastAPI()

    @app.get("/there")
    async def there() -> str:
        return "there"

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    allowed = Connections(**{"most": 100, "most_of_one": 100, "body_seconds": LONG, "header_seconds": LONG, **limits})
    protocol: Any = partial(GuardedProtocol, allowed)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, PATIENCE_SECONDS)


def answer(client: socket.socket) -> bytes:
    """What comes until the server closes, or has answered; empty where it closes without a word."""
    came = b""
    try:
        while b"there" not in came and (more := client.recv(4096)):
            came += more
    except ConnectionResetError:
        pass
    return came


def is_served(address: tuple[str, int]) -> bool:
    with connected(address) as client:
        client.sendall(GET + b"\r\n")
        return answer(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [b"", b"G", GET, GET + b"X: y"])
def test_headers_that_do_not_end_have_their_time(begun: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with serving(header_seconds=SHORT) as address, connected(address) as client, caplog.at_level(logging.WARNING):
        client.sendall(begun)
        assert answer(client) == b""
        assert is_served(address)
    assert "closed a connection of 127.0.0.1: its headers took longer than 1 s" in caplog.text


def test_a_trickle_of_bytes_gets_no_more_of_it() -> None:
    with serving(header_seconds=SHORT) as address, connected(address) as client:
        client.sendall(GET)
        client.settimeout(0.01)
        while not is_closed(client):
            with suppress(ConnectionError):
                client.sendall(b"X: y\r\n")


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_second_request_of_a_connection_has_its_time_too() -> None:
    with serving(header_seconds=SHORT) as address, connected(address) as client:
        client.sendall(GET + b"\r\n")
        assert answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(GET)
        assert answer(client) == b""


@pytest.mark.parametrize("request_line", [b"POST /body", b"GET /there", b"POST /nothing"])
def test_a_body_that_does_not_come_has_its_time(request_line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the answer is there already: nobody had to read the body for it."""
    with serving(body_seconds=SHORT) as address, connected(address) as client, caplog.at_level(logging.WARNING):
        client.sendall(request_line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234")
        answer(client)
        assert answer(client) == b""
    assert "its body took longer than 1 s" in caplog.text


def test_whoever_waits_for_an_answer_is_not_hurried() -> None:
    with (
        serving(header_seconds=SHORT, body_seconds=SHORT) as address,
        connected(address) as idle,
        connected(address) as slow,
    ):
        idle.sendall(GET + b"\r\n")
        assert answer(idle).startswith(b"HTTP/1.1 200")
        assert answer(slow) == b""  # the time of one that came later has ended
        idle.sendall(GET + b"\r\n")
        assert answer(idle).startswith(b"HTTP/1.1 200")


def test_a_full_server_lets_go_whoever_has_been_longest_without_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), serving(most=3) as address, ExitStack() as stack:
        half_open = [stack.enter_context(connected(address)) for _ in range(30)]
        assert is_served(address)
        for client in half_open[:27]:
            assert answer(client) == b""
    assert "closed a connection of 127.0.0.1: 3 connections; the longest without a request" in caplog.text
    assert len(caplog.text.splitlines()) < 10


def test_a_server_full_of_requests_takes_no_more_in(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with serving(most=2) as address, connected(address) as first, connected(address) as second:
        for client in (first, second):
            client.sendall(GET + b"\r\n")
            assert answer(client).startswith(b"HTTP/1.1 200")
        with connected(address) as third:
            assert answer(third) == b""
        first.sendall(GET + b"\r\n")
        assert answer(first).startswith(b"HTTP/1.1 200")
    assert "closed a connection of 127.0.0.1: 2 connections" in caplog.text


def test_an_address_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_is_own", lambda address: address == "127.0.0.9")
    with serving(most_of_one=2) as address, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connected(address))
        refused = stack.enter_context(connected(address))
        assert answer(refused) == b""
        for other in ("127.0.0.2", "127.0.0.9", "127.0.0.9", "127.0.0.9"):
            client = stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS, source_address=(other, 0)))
            client.sendall(GET + b"\r\n")
            assert answer(client).startswith(b"HTTP/1.1 200")


def test_places_become_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_is_own", lambda _address: False)
    with serving(most=1, most_of_one=1) as address:
        served = 0
        while served < 5:  # the server may learn of a connection's end after the next one's beginning
            served += is_served(address)


def test_own_addresses_are_known() -> None:
    own = [connections_module._is_own(address) for address in ("127.0.0.1", "::1", "unknown", "10.0.0.1", "2001::1")]
    assert own == [True, True, True, False, False]
