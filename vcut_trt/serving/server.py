"""`vcut serve`: an HTTP server for one bundle on one GPU, from its start to its last job.

SIGTERM and Ctrl-C drain: no new job is taken in, the one at work is finished while its client may still look and
listen, queued ones stay on disk for the next start. A second signal ends at once; then the job at work is made again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.serving.app import Doors, create_app
from vcut_trt.serving.connections import Connections, GuardedProtocol
from vcut_trt.serving.jobs.service import Service, ServiceConfig
from vcut_trt.serving.worker.process import Command, ProcessWorker

logger = logging.getLogger(__name__)

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
MOST_HEADER_BYTES = 64 * 1024  # of a request
CONNECTIONS = 400  # each may need two files, and 1024 is what a process often may open
CONNECTIONS_PER_ADDRESS = 100
ANSWER_SECONDS = 15.0  # for the refusal of a body that was too slow to arrive, before its connection is closed
CLOSE_SECONDS = 5  # for connections to end by themselves, once the engines have


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where a server listens, and how long it waits for what."""

    service: ServiceConfig
    worker: Command
    host: str = "127.0.0.1"
    port: int = 8000
    start_seconds: float = 900.0  # for the engines to open
    warm_up_seconds: float = 1800.0  # for them to run for the first time
    silence_seconds: float = 180.0  # of a worker at work, before it counts as hung
    drain_seconds: float = 600.0  # for the job at work to end
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    connections: int = CONNECTIONS
    connections_per_address: int = CONNECTIONS_PER_ADDRESS  # other machines' addresses

    def __post_init__(self) -> None:
        for name in ("connections", "connections_per_address"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach it."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    def doors(self) -> Doors:
        """What is let in. Without keys, this machine's own names only: a page could make its name point here."""
        is_guarded = self.service.keys is not None or self.is_open
        hosts = self.allowed_hosts or (() if is_guarded else LOOPBACK_HOSTS)
        return Doors(upload_bytes=self.service.limits.upload_bytes, cors_origins=self.cors_origins, allowed_hosts=hosts)


def serve(config: ServerConfig) -> None:
    """Serve until a signal comes.

    Raises:
        ConfigError: Other machines could reach it, and nothing says who may.
        ServingError: The address is taken, the data folder is in use, or no worker can be started.
    """
    if config.is_open and config.service.keys is None and not config.allowed_hosts:
        raise ConfigError(
            f"--host {config.host} lets other machines in. Make keys (vcut keys keys.json NAME) and pass "
            "--keys keys.json, or name what the server may be asked by, --allowed-host NAME: any page could make its "
            "own name point here."
        )
    if config.is_open and config.service.keys is None:
        logger.warning(
            "listening on %s without API keys: whoever reaches this port can use the GPU and see every video. "
            "Make keys with `vcut keys` and pass --keys.",
            config.host,
        )
    service = Service(
        config.service,
        [
            ProcessWorker(
                config.worker,
                start_seconds=config.start_seconds,
                warm_up_seconds=config.warm_up_seconds,
                silence_seconds=config.silence_seconds,
            )
        ],
    )
    app = create_app(lambda: service, config.doors(), drain_seconds=config.drain_seconds)
    server = _Server(uvicorn_config(config, app), service, config.drain_seconds)
    sockets = [_listen(config.host, config.port)]
    watcher = threading.Thread(target=server.end_if_no_worker_starts, daemon=True, name="first start")
    watcher.start()
    server.run(sockets)
    if server.failure is not None:
        raise server.failure


def uvicorn_config(config: ServerConfig, app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs the application: with h11, which cuts off headers that do not end; httptools keeps them."""
    connections = Connections(
        most=config.connections,
        most_of_one=config.connections_per_address,
        body_seconds=config.service.limits.upload_seconds + ANSWER_SECONDS,
    )
    return uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], partial(GuardedProtocol, connections)),  # uvicorn calls it, no more
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        host=config.host,
        port=config.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        timeout_keep_alive=30,
    )


class _Server(uvicorn.Server):
    """A server that finishes its work before it closes its doors."""

    def __init__(self, settings: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(settings)
        self._service = service
        self._drain_seconds = drain_seconds
        self.failure: ServingError | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._service.is_draining:
            logger.warning("a second signal: the job at work is broken off")
            self._service.break_off()
            self.should_exit = True
            return
        logger.info("a signal: no new jobs; the one at work is finished first")
        self._service.is_draining = True
        threading.Thread(target=self._drain, daemon=True, name="drain").start()

    def _drain(self) -> None:
        self._service.drain(self._drain_seconds)
        self.should_exit = True

    def end_if_no_worker_starts(self) -> None:
        """A bundle whose engines cannot be opened is not worth a server."""
        try:
            self._service.wait_until_started()
        except ServingError as error:
            self.failure = error
            self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServingError(f"cannot listen on {host} port {port}: {error.strerror}. Choose another --port.") from error
    listener.listen(1024)
    listener.set_inheritable(False)
    name = f"[{host}]" if family is socket.AF_INET6 else host
    logger.info("http://%s:%d", name, listener.getsockname()[1])
    return listener
