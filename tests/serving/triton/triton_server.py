"""Runs a real tritonserver for a test."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.serving.triton.triton_home import BACKENDS, ROOT, SERVER, is_ready

START_SECONDS = 300
START_CRASHES = 2  # that are forgiven: 2.51.0 was seen to abort with boost's lock_exception on a busy machine
ANSWER_SECONDS, STOP_SECONDS = 120, 120
PORTS = range(20_000, 32_000)  # below those that systems give out themselves


@dataclass(frozen=True, kw_only=True)
class TritonServer:
    """A server that listens on 127.0.0.1."""

    home: Path
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path
    process: subprocess.Popen[bytes]

    def get(self, path: str, *, metrics: bool = False) -> str:
        """The body of a GET; `metrics`: of the metrics port, not the HTTP port."""
        port = self.metrics_port if metrics else self.http_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_SECONDS) as answer:
            return answer.read().decode()

    def is_up(self, path: str) -> bool:
        try:
            self.get(path)
        except (urllib.error.URLError, OSError):
            return False
        return True

    def counters(self, name: str) -> dict[str, float]:
        """The values of one metric, by the rest of their lines' labels as they stand."""
        lines = [line for line in self.get("/metrics", metrics=True).splitlines() if line.startswith(f"{name}{{")]
        pairs = [line.removeprefix(name).rsplit(" ", 1) for line in lines]
        return {labels: float(value) for labels, value in pairs}

    def client(self, *arguments: str | Path) -> list[str]:
        """The command that runs the example's client against this server."""
        program = [self.home / "client" / "bin" / "python", ROOT / "examples" / "triton_client.py"]
        return [str(word) for word in (*program, "--url", f"127.0.0.1:{self.grpc_port}", *arguments)]


def why_not(home: Path) -> str:
    """Why no server can be run here; empty if one can."""
    if not is_ready(home):
        return "tritonserver is not set up: python -m tests.serving.triton.triton_home"
    stub = home / "server" / BACKENDS / "python" / "triton_python_backend_stub"
    found = subprocess.run(["ldd", str(stub)], capture_output=True, text=True, check=False, env=variables(home)).stdout
    missing = [line.split()[0] for line in found.splitlines() if "not found" in line]
    return f"Triton's Python backend lacks {', '.join(missing)}" if missing else ""


def make_environment(home: Path, folder: Path) -> Path:
    """A virtual environment in `folder` for the Python in the stub: NumPy 1, this project, and what runs this test.

    That NumPy comes before ours, because this Python backend was built for NumPy 1.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "vcut_trt.pth").write_text("\n".join([str(home / "numpy"), str(ROOT), *ours]) + "\n")
    return folder


def variables(environment: Path) -> dict[str, str]:
    """Ours, with an environment first on the PATH: there the stub's Python looks for its packages, not at PYTHONPATH.

    The library of that Python is the one of the Python that runs this test, where that has one.
    """
    libraries = [str(sysconfig.get_config_var("LIBDIR") or ""), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


@contextmanager
def running_server(home: Path, repository: Path, folder: Path, *, exit_seconds: int = 20) -> Iterator[TritonServer]:
    """A server for `repository` that is ready; its log is in `folder`."""
    environment = variables(make_environment(home, folder / "environment"))
    for _ in range(1 + START_CRASHES):
        running = _start(home, repository, folder, environment, exit_seconds)
        try:
            if _wait_until_ready(running):
                yield running
                return
        finally:
            _stop(running)
    raise AssertionError(running.log.read_text(errors="replace"))


def _start(home: Path, repository: Path, folder: Path, environment: dict[str, str], exit_seconds: int) -> TritonServer:
    http, grpc, metrics = free_ports(3)
    server, log = home / "server", folder / "tritonserver.log"
    command = [
        server / SERVER / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={server / BACKENDS}",
        f"--backend-config=python,shm-region-prefix-name={_regions(grpc)}",
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
        *(f"--{name}-port={port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))),
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={exit_seconds}",
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=folder)
    return TritonServer(home=home, http_port=http, grpc_port=grpc, metrics_port=metrics, log=log, process=process)


def _stop(server: TritonServer) -> None:
    server.process.terminate()
    try:
        server.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    for region in Path("/dev/shm").glob(f"{_regions(server.grpc_port)}*"):  # noqa: S108  # where shared memory lies
        region.unlink()


def _regions(grpc_port: int) -> str:
    """How the names of a server's regions of shared memory begin; a server that crashes leaves them behind."""
    return f"vcut_{os.getpid()}_{grpc_port}_"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def _wait_until_ready(server: TritonServer) -> bool:
    """Wait for a server that starts; False where it crashed, which says nothing of the model."""
    deadline = time.monotonic() + START_SECONDS
    while not server.is_up("/v2/health/ready"):
        code = server.process.poll()
        if code is not None and code < 0:
            return False
        assert code is None, f"tritonserver ended with {code}:\n{server.log.read_text(errors='replace')}"
        assert time.monotonic() < deadline, f"tritonserver is not ready:\n{server.log.read_text(errors='replace')}"
        time.sleep(0.1)
    return True
