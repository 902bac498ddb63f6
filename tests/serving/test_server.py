"""`vcut serve` as its users run it: a process, signals, a port."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import uvicorn
from fastapi import FastAPI

from tests.serving.app import picture
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError
from vcut_trt.serving.jobs.service import ServiceConfig
from vcut_trt.serving.server import LOOPBACK_HOSTS, ServerConfig, serve, uvicorn_config

PATIENCE_SECONDS = 240.0  # a guard against hanging only
FORM = {"num_inference_steps": "3", "seed": "1"}


class Serving:
    """A running `vcut serve`."""

    def __init__(self, bundle: Path, data: Path, *options: str) -> None:
        self.log = data.with_name(f"{time.monotonic_ns()}.log")  # a server's own: its port is read from it
        command = [sys.executable, "-c", "from vcut_trt.commands.app import main; main()", "serve", str(bundle)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", "0", "--data", str(data), "--device", "cpu", *options], stdout=log, stderr=log
            )
        started = self.wait_for(lambda: re.findall(r"http://127\.0\.0\.1:(\d+)", self.log.read_text()))
        self.url = f"http://127.0.0.1:{started[-1]}"

    def wait_for(self, condition: Any) -> Any:
        """What `condition` gives once it is true."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)
        return found

    def ready(self) -> Serving:
        self.wait_for(lambda: self.readiness() == 200)
        return self

    def readiness(self) -> int:
        return requests.get(f"{self.url}/readyz", timeout=PATIENCE_SECONDS).status_code

    def submit(self, **fields: str) -> str:
        files = {"image": ("p.png", picture(), "image/png")}
        answer = requests.post(f"{self.url}/v1/videos", data={**FORM, **fields}, files=files, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(f"{self.url}/v1/videos/{name}", timeout=PATIENCE_SECONDS).json()
        return answer

    def begun(self, steps: int) -> str:
        """A new job that has made a step, at least."""
        name = self.submit(num_inference_steps=str(steps))
        self.wait_for(lambda: self.job(name)["step"] > 1)
        return name

    def ended(self, name: str) -> dict[str, Any]:
        end = ("completed", "failed", "cancelled")
        self.wait_for(lambda: self.job(name)["status"] in end)
        return self.job(name)

    def video(self, name: str) -> bytes:
        return requests.get(f"{self.url}/v1/videos/{name}/content", timeout=PATIENCE_SECONDS).content

    def worker(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        (worker,) = [child for child in children if "vcut_trt.serving.worker.main" in child.cmdline()]
        return worker

    @contextmanager
    def caught(self, steps: int = 60) -> Iterator[tuple[str, psutil.Process]]:
        """A job in its middle, and its worker, which stands still. On a fast machine it may take several jobs."""
        worker = self.worker()
        name = self.begun(steps)
        worker.suspend()
        while self.job(name)["step"] > steps / 2:  # too late
            worker.resume()
            name = self.begun(steps)
            worker.suspend()
        try:
            yield name, worker
        finally:
            with suppress(psutil.NoSuchProcess):
                worker.resume()


@contextmanager
def serving(bundle: Bundle, data: Path, *options: str) -> Iterator[Serving]:
    """A server that is ready, killed at the end if it still runs."""
    started = Serving(bundle.root, data, *options)
    try:
        yield started.ready()
    finally:
        started.process.kill()
        started.process.wait()


def test_jobs_survive_sigkill_and_give_the_same_bytes(nano_bundle: Bundle, tmp_path: Path) -> None:
    with serving(nano_bundle, tmp_path / "data") as first:
        calm = first.submit()
        first.ended(calm)
        expected = first.video(calm)
        with first.caught() as (interrupted, _):
            waiting = first.submit()
            first.process.kill()
    with serving(nano_bundle, tmp_path / "data") as second:
        job = second.ended(interrupted)
        assert (job["status"], job["attempts"]) == ("completed", 2)
        assert second.ended(waiting)["status"] == "completed"
        assert second.video(waiting) == second.video(calm) == expected
        assert second.ended(calm)["attempts"] == 1


def test_a_worker_that_dies_or_hangs_is_replaced(nano_bundle: Bundle, tmp_path: Path) -> None:
    with serving(nano_bundle, tmp_path / "data", "--hang-timeout", "6") as server:
        with server.caught() as (crashed, worker):
            worker.kill()
            server.wait_for(lambda: server.readiness() == 503)
        assert server.ended(crashed)["attempts"] == 2
        with server.caught() as (hung, worker):
            assert server.ended(hung)["attempts"] == 2
            assert not psutil.pid_exists(worker.pid) or worker.status() == psutil.STATUS_ZOMBIE
        assert "it hung: silent for" in server.log.read_text()


def test_sigterm_finishes_the_job_at_work_and_keeps_the_others(nano_bundle: Bundle, tmp_path: Path) -> None:
    with serving(nano_bundle, tmp_path / "data") as server:
        with server.caught() as (at_work, worker):
            waiting = server.submit()
            events = requests.get(f"{server.url}/v1/videos/{at_work}/events", stream=True, timeout=PATIENCE_SECONDS)
            for process in (worker, server.process):  # as Ctrl-C and systemd do it
                process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: server.readiness() == 503)
        seen = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith(b"data: ")]
        assert seen[-1]["status"] == "completed"
        assert server.process.wait(PATIENCE_SECONDS) == 0
    with serving(nano_bundle, tmp_path / "data") as again:
        assert again.job(at_work)["status"] == "completed"
        assert again.ended(waiting)["status"] == "completed"


def test_a_second_signal_ends_at_once(nano_bundle: Bundle, tmp_path: Path) -> None:
    with serving(nano_bundle, tmp_path / "data") as server, server.caught(900) as (name, _):
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda: server.readiness() == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_SECONDS) == 0
    with serving(nano_bundle, tmp_path / "data") as again:
        assert again.job(name)["status"] in ("queued", "in_progress")


def failing(bundle: Path, *options: str) -> str:
    """What a server that cannot start says, in one message."""
    result = subprocess.run(
        [sys.executable, "-c", "from vcut_trt.commands.app import main; main()", "serve", str(bundle), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_what_cannot_be_served_is_said(nano_bundle: Bundle, tmp_path: Path) -> None:
    assert "is not a bundle" in failing(tmp_path)
    data = ["--data", str(tmp_path / "data"), "--port", "0"]
    assert "cannot read the keys" in failing(nano_bundle.root, *data, "--keys", str(tmp_path / "none.json"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "Choose another --port" in failing(nano_bundle.root, "--data", str(tmp_path / "data"), "--port", port)
    assert "no worker can be started" in failing(nano_bundle.root, *data, "--backend", "tensorrt")


def test_a_server_that_others_reach_wants_keys_or_names(nano_bundle: Bundle, tmp_path: Path) -> None:
    service = ServiceConfig(bundle=nano_bundle, data=tmp_path / "data")
    with pytest.raises(ConfigError, match="--keys keys.json, or name what the server may be asked by, --allowed-host"):
        serve(ServerConfig(service=service, worker=lambda _residency: [], host="0.0.0.0"))  # noqa: S104
    assert not (tmp_path / "data").exists()


def test_headers_that_do_not_end_are_cut_off(nano_bundle: Bundle, tmp_path: Path) -> None:
    """With httptools, where it is installed, they would fill the memory."""
    service = ServiceConfig(bundle=nano_bundle, data=tmp_path)
    config = uvicorn_config(ServerConfig(service=service, worker=lambda _residency: []), FastAPI())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        with socket.create_connection(listener.getsockname(), PATIENCE_SECONDS) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            with suppress(ConnectionError):
                for _ in range(400):
                    client.sendall(b"X: " + b"a" * 1000 + b"\r\n")
            client.settimeout(PATIENCE_SECONDS)
            answer = b""
            with suppress(ConnectionError):  # a server that closes may forget its answer
                answer = client.recv(100)
            assert not answer or answer.startswith(b"HTTP/1.1 4")
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("10.0.0.1", True), ("::", True)],  # noqa: S104
)
def test_a_server_that_others_reach_is_told_from_one_that_they_do_not(
    nano_bundle: Bundle, tmp_path: Path, host: str, is_open: bool
) -> None:
    service = ServiceConfig(bundle=nano_bundle, data=tmp_path)
    config = ServerConfig(service=service, worker=lambda _residency: [], host=host)
    assert config.is_open is is_open
    assert config.doors().allowed_hosts == (() if is_open else LOOPBACK_HOSTS)


def test_its_connections_are_counted_and_timed(nano_bundle: Bundle, tmp_path: Path) -> None:
    service = ServiceConfig(bundle=nano_bundle, data=tmp_path)
    with pytest.raises(ConfigError, match="connections_per_address is 0"):
        ServerConfig(service=service, worker=lambda _residency: [], connections_per_address=0)
    config = uvicorn_config(ServerConfig(service=service, worker=lambda _residency: [], connections=1), FastAPI())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        address = listener.getsockname()
        first = socket.create_connection(address, PATIENCE_SECONDS)
        with first, socket.create_connection(address, PATIENCE_SECONDS), suppress(ConnectionError):
            assert first.recv(100) == b""
        server.should_exit = True
        thread.join()
