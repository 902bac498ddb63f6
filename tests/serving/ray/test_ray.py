"""Many GPUs behind Ray: the two ends of a call alone, then Ray Data and Ray Serve themselves, on this machine's CPU."""

from __future__ import annotations

import asyncio
import io
import os
import queue
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import BaseModel

from tests.serving.app import picture
from vcut_trt.batch.run import run_batch
from vcut_trt.batch.tasks import BatchConfig
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import BundleError, ConfigError, DeviceMemoryError, ServingError
from vcut_trt.runtime.generate import GenerateConfig, generate_videos
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.worker.messages import (
    FROM_WORKER,
    Failed,
    Made,
    Make,
    Ready,
    StageBegun,
    StepDone,
    Stopped,
    Warming,
)
from vcut_trt.serving.worker.protocol import JobFailedError, WorkerLostError, WorkerStoppedError
from vcut_trt.spec.clip import CLIP_SETTINGS, ClipSettings
from vcut_trt.spec.residency import Residency

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
pytest.importorskip("ray.data")

from ray import serve  # noqa: E402
from ray.exceptions import RayActorError  # noqa: E402
from ray.serve.exceptions import RequestCancelledError  # noqa: E402

from vcut_trt.batch.on_ray import MOST_ATTEMPTS, ClipActor  # noqa: E402
from vcut_trt.serving.ray import worker as ray_worker  # noqa: E402
from vcut_trt.serving.ray.app import AppArguments, build_app  # noqa: E402
from vcut_trt.serving.ray.worker import WAITING, ClipReplica, RayWorker  # noqa: E402

SETTINGS = ClipSettings(num_inference_steps=4, cut_step=3, seed=5)
FORM = {"num_inference_steps": "4", "cut_step": "3", "seed": "5"}
READY = Ready(backend="b", device="cpu", residency="resident").model_dump_json()
STEP = StepDone(job="j", step=1, stage="s", seconds=0.1).model_dump_json()
MADE = Made(job="j", timings={"s": 0.1}, device_bytes=None).model_dump_json()
PATIENCE_SECONDS = 240.0  # a guard against hanging only


def nobody(_message: Warming) -> None:
    """Nobody listens to a warm-up."""


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """What `condition` gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def expected(nano_bundle: Bundle, nano_picture: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `vcut generate` makes of the picture."""
    config = GenerateConfig(
        image=nano_picture, output=tmp_path_factory.mktemp("generated") / "clip.mp4", settings=SETTINGS
    )
    generate_videos(nano_bundle, config, choose_backend(nano_bundle, Backend.AUTO, "cpu"), EngineOptions())
    return config.output.read_bytes()


# The runner's end, with replicas that say what a test wants


class FakeResponse:
    """What a handle gives back: it says what was put into it; an exception is raised."""

    def __init__(self, *said: Any) -> None:
        self.said: queue.Queue[Any] = queue.Queue()
        self.cancelled = threading.Event()
        for something in said:
            self.said.put(something)

    def result(self) -> Any:
        return next(self)

    def cancel(self) -> None:
        self.cancelled.set()
        self.said.put(RequestCancelledError())

    def __iter__(self) -> FakeResponse:
        return self

    def __next__(self) -> Any:
        said = self.said.get(timeout=PATIENCE_SECONDS)
        if isinstance(said, Exception):
            raise said
        return said


class FakeHandle:
    """A deployment's handle, with the responses to its next calls."""

    def __init__(self, *responses: FakeResponse) -> None:
        self.responses = list(responses)
        self.calls: list[tuple[Any, ...]] = []
        self.ready = self.make = self

    def options(self, *, stream: bool) -> FakeHandle:
        assert stream
        return self

    def remote(self, *args: Any) -> FakeResponse:
        self.calls.append(args)
        return self.responses.pop(0)


@pytest.fixture
def order(tmp_path: Path) -> Make:
    (tmp_path / "p.png").write_bytes(b"a picture")
    return Make(job="j", picture=tmp_path / "p.png", video=tmp_path / "v.mp4", settings=SETTINGS)


def worker_of(*responses: FakeResponse, silence_seconds: float = PATIENCE_SECONDS) -> tuple[RayWorker, FakeHandle]:
    handle = FakeHandle(*responses)
    return RayWorker(handle, silence_seconds=silence_seconds), handle


def test_a_clip_comes_with_its_events(order: Make) -> None:
    worker, handle = worker_of(FakeResponse(READY), FakeResponse(STEP, b"mp4", MADE, StopIteration()))
    assert worker.start(Residency.STAGED, nobody).device == "cpu"
    assert [event.kind for event in worker.make(order)] == ["step", "made"]
    assert order.video.read_bytes() == b"mp4"
    ((residency,), (job, settings, sent, asked)) = handle.calls
    assert (residency, job, sent, asked) == ("staged", "j", b"a picture", "staged")
    assert CLIP_SETTINGS.validate_json(settings) == SETTINGS


def test_a_job_that_waits_for_a_replica_says_so_and_can_be_stopped(
    order: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_worker, "LOOK_SECONDS", 0.05)
    response = FakeResponse()
    worker, _ = worker_of(response)
    events = worker.make(order)
    assert next(events) == next(events) == StageBegun(job="j", stage=WAITING)
    threading.Timer(0.1, worker.stop, ("j",)).start()
    with pytest.raises(WorkerStoppedError):
        list(events)
    assert response.cancelled.is_set()


def test_a_stop_that_comes_before_the_job_is_kept(order: Make) -> None:
    worker, handle = worker_of()
    worker.stop("j")
    with pytest.raises(WorkerStoppedError):
        list(worker.make(order))
    assert handle.calls == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (RayActorError(), "a replica was lost"),
        (StopIteration(), "ended without a word"),
        ("nonsense", "it said 'nonsense'"),
        (MADE.replace('"j"', '"k"'), "something else"),
        (Stopped(job="j").model_dump_json(), "it said"),
    ],
)
def test_a_replica_that_is_lost_is_told(said: Any, expected: str, order: Make) -> None:
    worker, _ = worker_of(FakeResponse(STEP, said))
    with pytest.raises(WorkerLostError, match=expected):
        list(worker.make(order))


def test_a_silent_replica_is_given_up(order: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "SPARE_SECONDS", 0.1)
    response = FakeResponse(STEP)
    worker, _ = worker_of(response, silence_seconds=0.1)
    with pytest.raises(WorkerLostError, match="silent"):
        list(worker.make(order))
    assert response.cancelled.is_set()


@pytest.mark.parametrize("is_broken", [False, True])
def test_what_fails_in_the_replica_fails_the_job(is_broken: bool, order: Make) -> None:
    failed = Failed(job="j", code=ErrorCode.OUT_OF_MEMORY, message="no room", is_broken=is_broken)
    worker, _ = worker_of(FakeResponse(failed.model_dump_json(), StopIteration()), FakeResponse(READY))
    with pytest.raises(JobFailedError, match="no room") as caught:
        list(worker.make(order))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    assert worker.is_alive is not is_broken
    worker.start(Residency.STAGED, nobody)
    assert worker.is_alive


def test_starting_asks_again_when_the_replica_dies_and_ends_when_killed() -> None:
    worker, handle = worker_of(FakeResponse(RayActorError()), FakeResponse(READY), FakeResponse())
    worker.start(Residency.AUTO, nobody)
    assert len(handle.calls) == 2

    def kill_when_asked() -> None:
        wait_for(lambda: len(handle.calls) == 3)
        worker.kill()

    threading.Thread(target=kill_when_asked).start()
    with pytest.raises(WorkerLostError, match="broken off"):
        worker.start(Residency.AUTO, nobody)


def test_a_server_that_ends_waits_for_no_replica_but_for_those_at_work(order: Make) -> None:
    at_work = FakeResponse(STEP)
    busy, _ = worker_of(at_work)
    events = busy.make(order)
    assert next(events).kind == "step"
    waiting, _ = worker_of(FakeResponse(), FakeResponse())
    for worker in (busy, waiting):
        threading.Timer(0.1, worker.end_waiting).start()
    with pytest.raises(WorkerLostError, match="the server is ending"):
        list(waiting.make(order))
    with pytest.raises(WorkerLostError, match="the server is ending"):
        waiting.start(Residency.AUTO, nobody)
    at_work.said.put(b"mp4")
    at_work.said.put(MADE)
    assert [event.kind for event in events] == ["made"]


# The replica's end, without Ray


@pytest.fixture(scope="module")
def replica(nano_bundle: Bundle) -> ClipReplica:
    return ClipReplica(
        bundle=str(nano_bundle.root),
        backend="auto",
        device="cpu",
        residency="auto",
        cuda_graphs=True,
        warm_up="always",
        silence_seconds=PATIENCE_SECONDS,
    )


def test_a_replica_runs_its_engines_before_it_is_there(replica: ClipReplica, nano_bundle: Bundle) -> None:
    engines = replica._pipeline._engines
    assert set(engines._open) == set(nano_bundle.manifest.graphs)
    assert len(engines._made) == 3, "every stage is bound"


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[int]:
    """The exit codes of the process, were it not the tests'."""
    codes: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(ray_worker, "LAST_WORDS_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", codes.put)
    return codes


async def said_by(
    replica: ClipReplica, *, steps: int = 4, most: int = 10_000, residency: str = "auto"
) -> list[str | bytes]:
    """Up to `most` of what a replica says about a clip; then nobody listens any more."""
    settings = ClipSettings(num_inference_steps=steps, cut_step=3, seed=5)
    text = CLIP_SETTINGS.dump_json(settings).decode()
    said: list[str | bytes] = []
    call = replica.make("j", text, picture(100, 90), residency)
    async for something in call:
        said.append(something)
        if len(said) == most:
            await call.aclose()  # type: ignore[attr-defined]
    return said


def test_a_replica_makes_what_generate_makes(replica: ClipReplica, expected: bytes) -> None:
    assert Ready.model_validate_json(asyncio.run(replica.ready("auto"))).device == "cpu"
    *messages, mp4, made = asyncio.run(said_by(replica))
    steps = [FROM_WORKER.validate_json(message) for message in messages]
    assert [step.step for step in steps if isinstance(step, StepDone)] == [1, 2, 3, 4]
    assert mp4 == expected
    assert isinstance(FROM_WORKER.validate_json(made), Made)


def test_a_clip_that_nobody_wants_ends_between_two_steps(replica: ClipReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[BaseModel] = []
    send = ray_worker._Call.send

    def note(call: ray_worker._Call, message: BaseModel) -> None:
        made.append(message)
        send(call, message)

    monkeypatch.setattr(ray_worker._Call, "send", note)

    async def left_alone_then_asked() -> list[str | bytes]:
        left = await said_by(replica, steps=900, most=3)
        await replica.ready("auto")  # waits for the engines' thread
        return left

    assert len(asyncio.run(left_alone_then_asked())) == 3
    assert isinstance(made[-1], Stopped)
    assert len(made) < 900


def test_a_replica_that_hangs_is_not_well(replica: ClipReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_silence_seconds", 0.2)
    hanging, goes_on = threading.Event(), threading.Event()
    maker = ray_worker.ClipMaker.make

    def hangs(self: Any, order: Make) -> bool:
        hanging.set()
        goes_on.wait(PATIENCE_SECONDS)
        return maker(self, order)

    monkeypatch.setattr(ray_worker.ClipMaker, "make", hangs)
    replica.check_health()

    async def asked_meanwhile() -> None:
        clip = asyncio.create_task(said_by(replica))
        while not hanging.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # longer than the silence that is allowed
        try:
            with pytest.raises(ServingError, match="silent"):
                replica.check_health()
        finally:
            goes_on.set()
            await clip

    asyncio.run(asked_meanwhile())
    replica.check_health()


def test_a_replica_without_room_says_so_and_goes_on(
    replica: ClipReplica, exits: queue.Queue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise DeviceMemoryError("no room")

    monkeypatch.setattr("vcut_trt.serving.worker.clip_maker.animate", full)
    failed = FROM_WORKER.validate_json(asyncio.run(said_by(replica))[-1])
    assert failed == Failed(job="j", code=ErrorCode.OUT_OF_MEMORY, message="no room")
    assert exits.empty()


def test_a_replica_that_is_broken_says_so_and_ends(
    replica: ClipReplica, exits: queue.Queue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr("vcut_trt.serving.worker.clip_maker.animate", broken)
    failed = FROM_WORKER.validate_json(asyncio.run(said_by(replica))[-1])
    assert isinstance(failed, Failed)
    assert failed.is_broken
    assert exits.get(timeout=PATIENCE_SECONDS) == 1


def test_a_replica_opens_its_engines_again_where_they_are_to_be_staged(
    replica: ClipReplica, expected: bytes, exits: queue.Queue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = asyncio.run(said_by(replica, residency="staged"))
    assert said[-2] == expected
    staged = Ready.model_validate_json(asyncio.run(replica.ready("auto")))
    assert staged.residency == "staged"  # and it stays like that

    class Elsewhere:
        residency = Residency.RESIDENT

        def close(self) -> None:
            pass

    def full(_residency: Residency) -> None:
        raise DeviceMemoryError("no room")

    pipeline = replica._pipeline
    monkeypatch.setattr(replica, "_pipeline", Elsewhere())
    monkeypatch.setattr(replica, "_open", full)
    failed = FROM_WORKER.validate_json(asyncio.run(said_by(replica, residency="staged"))[-1])
    assert failed == Failed(job="j", code=ErrorCode.OUT_OF_MEMORY, message="no room", is_broken=True)
    assert exits.get(timeout=PATIENCE_SECONDS) == 1
    assert pipeline.residency is Residency.STAGED


# Arguments


@pytest.mark.parametrize(
    ("args", "error", "expected"),
    [
        ({"bundle": None}, ConfigError, "bundle=: Field required"),
        ({"max_replica": "2"}, ConfigError, "max_replica=2: .*Arguments are bundle, data"),
        ({"max_replicas": "many"}, ConfigError, "max_replicas=many"),
        ({"max_replicas": "1", "min_replicas": "2"}, ConfigError, "below min_replicas"),
        ({"device": "cuda:1"}, ConfigError, "device=cuda:1"),
        ({"queue": "0"}, ConfigError, "queue_jobs is 0"),
        ({"bundle": "nowhere"}, BundleError, "not a bundle"),
        ({"keys": "nowhere.json"}, ServingError, "cannot read the keys"),
    ],
)
def test_arguments_that_cannot_be_meant(
    args: dict[str, Any], error: type[Exception], expected: str, nano_bundle: Bundle
) -> None:
    came = {"bundle": str(nano_bundle.root), **args}
    with pytest.raises(error, match=expected):
        AppArguments.parse({name: value for name, value in came.items() if value is not None})


def test_arguments_become_what_vcut_serve_takes(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nano_bundle.root.parent)
    came = AppArguments.parse(
        {"bundle": "nano", "upload_mb": "2", "cors_origin": "https://a.example,https://b.example"}
    )
    assert came.bundle == nano_bundle.root
    assert came.data == nano_bundle.root.parent / "nano-jobs"
    assert came.doors().upload_bytes == 2 * 2**20
    assert came.doors().cors_origins == ("https://a.example", "https://b.example")
    assert "127.0.0.1" in came.doors().allowed_hosts
    assert AppArguments.model_validate_json(came.model_dump_json()) == came
    assert came.limits().upload_bytes == 2 * 2**20


# An actor of Ray Data's, without Ray


def test_an_image_that_ends_every_actor_is_recorded(nano_bundle: Bundle, nano_picture: Path, tmp_path: Path) -> None:
    actor = actor_of(nano_bundle.root)
    video = tmp_path / "deep" / "clip.mp4"
    batch = {"image": [str(nano_picture)], "videos": [[str(video)]]}
    video.parent.mkdir()
    count = video.with_name(".clip.mp4.attempts")
    count.write_bytes(b"." * MOST_ATTEMPTS)
    (failure,) = actor(batch)["failure"]
    assert "ended during each of 3 attempts" in failure
    assert not video.exists()
    assert actor(batch) == {"fatal": [""], "failure": [""]}  # the next run tries again
    assert video.exists()
    assert not count.exists()


def test_an_actor_that_cannot_open_its_engines_says_so_for_each_image(nano_picture: Path, tmp_path: Path) -> None:
    actor = actor_of(tmp_path / "nowhere")
    rows = actor({"image": [str(nano_picture)], "videos": [[str(tmp_path / "clip.mp4")]]})
    assert "not a bundle" in rows["fatal"][0]


def actor_of(bundle: Path) -> ClipActor:
    return ClipActor(
        bundle=str(bundle),
        settings=CLIP_SETTINGS.dump_json(SETTINGS).decode(),
        backend="auto",
        device="cpu",
        residency="auto",
        cuda_graphs=True,
    )


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_without_a_ray_is_told_at_once(
    address: str, nano_bundle: Bundle, nano_picture: Path, tmp_path: Path
) -> None:
    config = BatchConfig(
        bundle=nano_bundle, images=(nano_picture,), output=tmp_path, settings=SETTINGS, device="cpu", ray=address
    )
    with pytest.raises(ServingError, match=f"no Ray at {address}"):
        run_batch(config)


# Ray itself


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray on this machine. Its folder has a short name: a Unix socket's path has about 100 characters."""
    changes = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }  # else it lies in the home folder
    with (
        tempfile.TemporaryDirectory(prefix="vcut-ray-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in changes.items():
            patch.setenv(name, value)
        try:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=folder,
            )
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_ray_data_makes_what_generate_makes_and_goes_on(
    nano_bundle: Bundle, nano_picture: Path, expected: bytes, tmp_path: Path
) -> None:
    folder, output = tmp_path / "set", tmp_path / "out"
    for name in ("a.png", "sub/b.png", "c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nano_picture, folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (output / "sub").mkdir(parents=True)
    (output / "sub" / "b.mp4").write_bytes(b"made before")
    config = BatchConfig(
        bundle=nano_bundle, images=(folder,), output=output, settings=SETTINGS, device="cpu", ray="auto", actors=2
    )
    report = run_batch(config)
    assert (report.made, report.skipped, report.failed) == (2, 1, 1)
    assert (output / "a.mp4").read_bytes() == (output / "c.mp4").read_bytes() == expected
    assert (output / "sub" / "b.mp4").read_bytes() == b"made before"
    assert report.failures[0].image == str(folder / "broken.png")
    assert report.failures[0].error == "ImageError"
    assert ray.is_initialized()  # it was ours before


class Served:
    """The application on Ray Serve."""

    def __init__(self, url: str, data: Path) -> None:
        self.url = url
        self.data = data

    def submit(self, **fields: str) -> str:
        files = {"image": ("p.png", io.BytesIO(picture(100, 90)), "image/png")}
        answer = requests.post(f"{self.url}/v1/videos", data={**FORM, **fields}, files=files, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(f"{self.url}/v1/videos/{name}", timeout=PATIENCE_SECONDS).json()
        return answer

    def ended(self, name: str) -> dict[str, Any]:
        wait_for(lambda: self.job(name)["status"] in ("completed", "failed", "cancelled"))
        return self.job(name)

    def content(self, name: str) -> bytes:
        return requests.get(f"{self.url}/v1/videos/{name}/content", timeout=PATIENCE_SECONDS).content


@pytest.fixture(scope="module")
def served(local_ray: None, nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Served:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tmp_path_factory.mktemp("served") / "jobs"
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    args = {"bundle": str(nano_bundle.root), "data": str(data), "device": "cpu", "max_replicas": "1"}
    serve.run(build_app(args), name="vcut")
    server = Served(f"http://127.0.0.1:{port}", data)
    wait_for(lambda: requests.get(f"{server.url}/readyz", timeout=PATIENCE_SECONDS).status_code == 200)
    return server


@pytest.mark.slow
def test_serve_makes_what_generate_makes_and_tells_of_each_step(served: Served, expected: bytes) -> None:
    name = served.submit()
    with requests.get(f"{served.url}/v1/videos/{name}/events", stream=True, timeout=PATIENCE_SECONDS) as stream:
        events = [line.decode() for line in stream.iter_lines() if line.startswith(b"event:")]
    assert events[-1] == "event: completed"
    job = served.job(name)
    assert (job["status"], job["attempts"], job["progress"]) == ("completed", 1, 100)
    assert {"decode", "encode"} <= set(job["timings"])
    assert served.content(name) == expected


@pytest.mark.slow
def test_a_job_on_serve_can_be_cancelled_and_the_next_one_is_made(served: Served, expected: bytes) -> None:
    long = served.submit(num_inference_steps="900")
    wait_for(lambda: served.job(long)["step"] >= 2)
    after = served.submit()
    requests.delete(f"{served.url}/v1/videos/{long}", timeout=PATIENCE_SECONDS)
    assert served.ended(long)["status"] == "cancelled"
    assert served.ended(after)["status"] == "completed"
    assert served.content(after) == expected


@pytest.mark.slow
def test_a_job_whose_replica_is_killed_is_made_by_another(served: Served) -> None:
    (replica,) = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if "ClipReplica" in actor["name"]]
    actor = ray.get_actor(replica["name"], namespace=replica["namespace"])
    long = served.submit(num_inference_steps="150")
    wait_for(lambda: served.job(long)["step"] >= 2)
    ray.kill(actor)
    job = served.ended(long)
    assert (job["status"], job["attempts"]) == ("completed", 2)
