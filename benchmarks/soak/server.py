"""A real `vcut serve` that can be killed and started again on the same port and folder."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests

READY_SECONDS = 120.0
END_SECONDS = 60.0


@dataclass(kw_only=True)
class SoakServer:
    """The server under test.

    Args:
        bundle: What it serves.
        folder: Where its jobs and its log go.
        keys: Its file of API keys.
        queue: Its longest queue.
    """

    bundle: Path
    folder: Path
    keys: Path
    queue: int
    restart_seconds: list[float] = field(default_factory=list)  # from a kill to a server that answers and is ready
    kills: int = 0

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = int(found.getsockname()[1])
        self._log = (self.folder / "server.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Its jobs."""
        return self.folder / "jobs"

    def start(self) -> None:
        """Start it and wait until a job would be made at once."""
        options = ["--port", str(self.port), "--data", str(self.data), "--keys", str(self.keys)]
        limits = ["--queue", str(self.queue), "--jobs-per-key", "1000", "--device", "cpu", "--upload-mb", "1"]
        command = [sys.executable, "-m", "benchmarks.soak.vcut", "serve", str(self.bundle), *options, *limits]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)  # noqa: S603  # ours
        end = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start; see {self.folder / 'server.log'}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, and a new start."""
        assert self._process is not None
        begin = time.monotonic()
        self._process.kill()
        self._process.wait()
        self.kills += 1
        self.start()
        self.restart_seconds.append(time.monotonic() - begin)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(END_SECONDS)
        self._log.close()
        return code

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False


class Killer(threading.Thread):
    """Kills the server `kills` times, with pauses of random length, while there is work."""

    def __init__(self, server: SoakServer, kills: int, seed: int, pauses: tuple[float, float]) -> None:
        super().__init__(name="killer")
        self._server = server
        self._kills = kills
        self._random = random.Random(seed)  # noqa: S311  # no secret
        self._pauses = pauses
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Kill; an error ends the soak."""
        try:
            for _ in range(self._kills):
                time.sleep(self._random.uniform(*self._pauses))
                self._server.kill()
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            self.failure = error
