"""The worker process: what the server makes of everything that a process can do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving.sample_jobs import SETTINGS
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ServingError
from vcut_trt.runtime.generate import GenerateConfig, generate_videos
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.worker.messages import Made, Make, StageBegun, StepDone, Warming
from vcut_trt.serving.worker.process import ProcessWorker, worker_command
from vcut_trt.serving.worker.protocol import JobFailedError, WorkerLostError, WorkerStoppedError
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.warm_up import WarmUp

READY = '{"kind": "ready", "backend": "b", "device": "cpu", "residency": "resident"}'
WARMING = '{"kind": "warming", "doing": "unet_cfg", "done": 2, "total": 5}'
STEP = '{"kind": "step", "job": "j", "step": 1, "stage": "s", "seconds": 0.1}'
PATIENCE_SECONDS = 300.0  # a guard against hanging only
ORDER = Make(job="j", picture=Path("p.png"), video=Path("v.mp4"), settings=SETTINGS)
PRELUDE = """
import sys, time
def say(line): print(line, flush=True)
def hear(): return sys.stdin.readline()
"""


def nobody(_message: Warming) -> None:
    """Nobody listens to a warm-up."""


def scripted(
    script: str,
    *,
    start_seconds: float = PATIENCE_SECONDS,
    warm_up_seconds: float = PATIENCE_SECONDS,
    silence_seconds: float = PATIENCE_SECONDS,
) -> ProcessWorker:
    """A worker that runs a few lines of Python."""
    return ProcessWorker(
        lambda _residency: [sys.executable, "-c", PRELUDE + script],
        start_seconds=start_seconds,
        warm_up_seconds=warm_up_seconds,
        silence_seconds=silence_seconds,
    )


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[ProcessWorker]:
    made = scripted(f"say({READY!r}); hear(); {request.param}")
    made.start(Residency.AUTO, nobody)
    yield made
    made.close()
    assert not made.is_alive


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "it ended, opening its engines"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.abort()", "exit code -6"),
        ("say('hello')", "it ended"),
        (f"say({STEP!r})", "it began with"),
    ],
)
def test_a_worker_that_does_not_start_is_lost(script: str, message: str) -> None:
    worker = scripted(script)
    with pytest.raises(WorkerLostError, match=message):
        worker.start(Residency.AUTO, nobody)
    assert not worker.is_alive


def test_a_worker_that_never_starts_is_ended() -> None:
    worker = scripted("time.sleep(600)", start_seconds=0.2)
    with pytest.raises(WorkerLostError, match=r"it hung: silent for \d+ s, opening its engines"):
        worker.start(Residency.AUTO, nobody)
    assert not worker.is_alive


def test_a_warm_up_is_told_and_may_take_longer_than_a_job_may_be_silent() -> None:
    worker = scripted(f"say({WARMING!r}); say({WARMING!r}); say({READY!r}); hear()", silence_seconds=0.0)
    told: list[Warming] = []
    assert worker.start(Residency.AUTO, told.append).device == "cpu"
    assert told == [Warming(doing="unet_cfg", done=2, total=5)] * 2
    worker.close()


def test_a_warm_up_that_never_ends_is_ended_with_what_it_was_doing_and_the_remedy() -> None:
    worker = scripted(f"say({WARMING!r}); time.sleep(600)", warm_up_seconds=0.0)
    with pytest.raises(WorkerLostError, match=r"warming up: unet_cfg\. --warm-up-timeout may allow more than 0 s"):
        worker.start(Residency.AUTO, nobody)
    assert not worker.is_alive


def test_a_worker_that_ends_in_its_warm_up_is_lost() -> None:
    with pytest.raises(WorkerLostError, match="it ended, warming up: unet_cfg"):
        scripted(f"say({WARMING!r})").start(Residency.AUTO, nobody)


def test_engines_that_cannot_be_opened_are_an_error_with_their_message() -> None:
    worker = scripted('say(\'{"kind": "unusable", "message": "the plan is for another GPU"}\')')
    with pytest.raises(ServingError, match="the plan is for another GPU"):
        worker.start(Residency.AUTO, nobody)


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("", "it ended, starting the job"),
        (f"say({STEP!r})", "it ended, after step 1"),
        (f"say({STEP!r}); say('nonsense'); time.sleep(600)", "it ended, after step 1"),
        (f"say({STEP.replace(chr(34) + 'j' + chr(34), chr(34) + 'k' + chr(34))!r})", "it spoke of something else"),
        (f"say({READY!r})", "it spoke of something else"),
    ],
    indirect=["worker"],
)
def test_a_worker_that_goes_astray_is_lost(worker: ProcessWorker, message: str) -> None:
    with pytest.raises(WorkerLostError, match=message):
        list(worker.make(ORDER))
    assert not worker.is_alive


def test_a_worker_that_hangs_is_killed() -> None:
    worker = scripted(f"say({READY!r}); hear(); say({STEP!r}); time.sleep(600)")
    worker.start(Residency.AUTO, nobody)
    events = worker.make(ORDER)
    assert isinstance(next(events), StepDone)
    worker._silence_seconds = 0.3  # from now on: how long a process takes to say its first word is the machine's affair
    with pytest.raises(WorkerLostError, match=r"it hung: silent for \d+ s, after step 1"):
        list(events)
    assert not worker.is_alive


def test_a_broken_worker_reports_and_ends() -> None:
    failed = '{"kind": "failed", "job": "j", "code": "failed", "message": "m", "is_broken": true}'
    worker = scripted(f"say({READY!r}); hear(); say({failed!r}); time.sleep(0.1)")
    worker.start(Residency.AUTO, nobody)
    with pytest.raises(JobFailedError, match="m") as caught:
        list(worker.make(ORDER))
    assert caught.value.code is ErrorCode.FAILED
    assert not worker.is_alive


def test_a_worker_can_be_started_again_and_again() -> None:
    worker = scripted(f"say({READY!r}); hear(); hear()")
    worker.start(Residency.AUTO, nobody)
    threading.Timer(0.2, worker.kill).start()  # before or while the order is given: the same to us
    with pytest.raises(WorkerLostError):
        list(worker.make(ORDER))
    worker.start(Residency.STAGED, nobody)
    assert worker.is_alive
    worker.close()


def test_without_a_worker_an_order_is_refused() -> None:
    with pytest.raises(WorkerLostError, match="there is no worker"):
        list(scripted("").make(ORDER))


# The real one


def real_worker(bundle: Bundle, warm_up: WarmUp) -> ProcessWorker:
    command = worker_command(str(bundle.root), backend="auto", device="cpu", cuda_graphs=True, warm_up=warm_up)
    limits = dict.fromkeys(("start_seconds", "warm_up_seconds", "silence_seconds"), PATIENCE_SECONDS)
    return ProcessWorker(command, **limits)


@pytest.fixture(scope="module")
def real(nano_bundle: Bundle) -> Iterator[ProcessWorker]:
    made, told = real_worker(nano_bundle, WarmUp.ALWAYS), []
    ready = made.start(Residency.AUTO, told.append)
    assert [(message.doing, message.done) for message in told] == [
        ("image encoders", 0),
        ("image_encoder", 0),
        ("vae_encoder", 1),
        ("denoising steps", 2),
        ("unet_cfg", 2),
        ("unet_single", 3),
        ("decoders", 4),
        ("vae_decoder", 4),
    ]
    assert {message.total for message in told} == {len(nano_bundle.manifest.graphs)}
    assert (ready.backend, ready.device, ready.residency) == ("onnxruntime", "cpu", "resident")
    yield made
    made.close()


def test_a_bundle_that_was_exchanged_under_the_server_is_not_opened(nano_bundle: Bundle) -> None:
    """Its jobs belong to the bundle that took them in."""
    command = worker_command(
        str(nano_bundle.root), backend="auto", device="cpu", cuda_graphs=True, warm_up=WarmUp.NEVER, sha256="0" * 64
    )
    limits = dict.fromkeys(("start_seconds", "warm_up_seconds", "silence_seconds"), PATIENCE_SECONDS)
    worker = ProcessWorker(command, **limits)
    with pytest.raises(ServingError, match="was changed while the server runs"):
        worker.start(Residency.AUTO, nobody)
    assert not worker.is_alive


def test_a_process_that_cannot_be_started_is_a_lost_worker() -> None:
    """A machine without memory or descriptors for a moment: the runner tries again."""
    limits = dict.fromkeys(("start_seconds", "warm_up_seconds", "silence_seconds"), PATIENCE_SECONDS)
    with pytest.raises(WorkerLostError, match="no process can be started"):
        ProcessWorker(lambda _residency: ["/nowhere/python"], **limits).start(Residency.AUTO, nobody)


def order(tmp_path: Path, picture: Path, *, steps: int = 3) -> Make:
    settings = ClipSettings(num_inference_steps=steps, cut_step=2, seed=5)
    return Make(job="j", picture=picture, video=tmp_path / "clip.mp4", settings=settings)


def test_it_makes_the_bytes_that_generate_makes(
    real: ProcessWorker, nano_bundle: Bundle, nano_picture: Path, tmp_path: Path
) -> None:
    wanted = order(tmp_path, nano_picture)
    events = list(real.make(wanted))
    assert [event.stage for event in events if isinstance(event, StageBegun)] == ["condition", "decode", "encode"]
    steps = [(event.step, event.stage) for event in events if isinstance(event, StepDone)]
    assert steps == [(1, "semantic binding"), (2, "quality improvement"), (3, "quality improvement")]
    made = events[-1]
    assert isinstance(made, Made)
    assert set(made.timings) == {"semantic binding", "quality improvement", "decode", "encode"}
    generate_videos(
        nano_bundle,
        GenerateConfig(image=nano_picture, output=tmp_path / "generated.mp4", settings=wanted.settings),
        choose_backend(nano_bundle, Backend.AUTO, "cpu"),
        EngineOptions(),
    )
    assert wanted.video.read_bytes() == (tmp_path / "generated.mp4").read_bytes()


def test_it_stops_between_two_steps_and_goes_on_with_the_next_job(
    real: ProcessWorker, nano_picture: Path, tmp_path: Path
) -> None:
    steps: list[int] = []

    def stop_at_the_first_step() -> None:
        for event in real.make(order(tmp_path, nano_picture, steps=1000)):
            if isinstance(event, StepDone):
                steps.append(event.step)
                real.stop("j")

    with pytest.raises(WorkerStoppedError):
        stop_at_the_first_step()
    assert len(steps) < 1000
    assert not (tmp_path / "clip.mp4").exists()
    again = order(tmp_path, nano_picture).model_copy(update={"job": "k"})
    assert isinstance(list(real.make(again))[-1], Made)


def test_a_picture_that_is_gone_fails_the_job_only(real: ProcessWorker, nano_picture: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="there is no image"):
        list(real.make(order(tmp_path, tmp_path / "gone.png").model_copy(update={"job": "l"})))
    with pytest.raises(JobFailedError, match="cannot write|there is no folder"):
        list(real.make(order(tmp_path / "gone", nano_picture).model_copy(update={"job": "m"})))
    assert isinstance(list(real.make(order(tmp_path, nano_picture).model_copy(update={"job": "n"})))[-1], Made)


def test_it_ends_with_its_server(nano_bundle: Bundle) -> None:
    """Killed with SIGKILL, a server cannot end its worker; the worker notices by itself."""
    script = (
        "import sys, time; from vcut_trt.serving.worker.process import *; "
        "from vcut_trt.spec.residency import Residency; "
        "from vcut_trt.spec.warm_up import WarmUp; "
        "command = worker_command(sys.argv[1], backend='auto', device='cpu', cuda_graphs=True, warm_up=WarmUp.AUTO); "
        "w = ProcessWorker(command, start_seconds=300, warm_up_seconds=300, silence_seconds=300); "
        "w.start(Residency.AUTO, print); print(w._process.pid, flush=True); "
        "time.sleep(600)"
    )
    server = subprocess.Popen([sys.executable, "-c", script, str(nano_bundle.root)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    assert psutil.pid_exists(pid)
    server.kill()
    server.wait()
    server.stdout.close()
    end = time.monotonic() + PATIENCE_SECONDS
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.05)
