"""A worker that is a replica of Ray Serve's: the two ends of one call.

    RayWorker, beside the runner                  ClipReplica, on a GPU of its own
    ── job, settings, picture, residency ──────►  one clip after the other, in one thread
    ◄── messages as JSON, the MP4 ──────────────

What travels is text and bytes. Serve sends an order to a replica that is free, and lets it wait while there is none:
orders that wait are what makes Serve start another replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException, RequestCancelledError

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import DeviceMemoryError, ServingError, VcutError, first_line
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.warm_up import warmed_up
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.worker.clip_maker import PAUSE_SECONDS, ClipMaker
from vcut_trt.serving.worker.messages import ENCODE, FROM_WORKER, Failed, Made, Make, Ready, StageBegun, StepDone
from vcut_trt.serving.worker.protocol import JobFailedError, OnWarming, WorkerLostError, WorkerStoppedError
from vcut_trt.spec.clip import CLIP_SETTINGS, ClipSettings
from vcut_trt.spec.residency import Residency
from vcut_trt.work.faults import passing_fault

logger = logging.getLogger(__name__)

WAITING = "waiting"  # the stage of a job that no replica has begun
LOOK_SECONDS = 1.0  # a waiting job says so this often: its runner then looks whether its deadline has passed
SPARE_SECONDS = 60.0  # for Serve to replace a silent replica by itself, before the runner gives it up
LAST_WORDS_SECONDS = 1.0  # between what a broken replica says and its end


class ClipReplica:
    """Makes clips with one pipeline, one after the other. Ray Serve runs it as a replica.

    Everything that touches the engines happens in one thread of its own: ONNX Runtime keeps CUDA graphs per thread, and
    Serve's event loop stays free to answer whether the replica is well.

    Args:
        bundle: Folder of the bundle, on the replica's node.
        backend: See `choose_backend`.
        device: See `choose_backend`.
        residency: How the engines are held to begin with.
        cuda_graphs: See `EngineOptions`.
        warm_up: Whether the engines run before the replica counts as there; how far they are is in its log.
        silence_seconds: How long a clip may take from one message to the next, before the replica counts as hung.

    Raises:
        VcutError: The engines cannot be opened.
    """

    def __init__(
        self,
        *,
        bundle: str,
        backend: str,
        device: str,
        residency: str,
        cuda_graphs: bool,
        warm_up: str,
        silence_seconds: float,
    ) -> None:
        self._bundle = Bundle.open(Path(bundle))
        self._choice = choose_backend(self._bundle, Backend(backend), device)
        self._cuda_graphs = cuda_graphs
        self._warm_up = warm_up
        self._silence_seconds = silence_seconds
        self._at_work: _Call | None = None
        self._thread = ThreadPoolExecutor(1, "engines")
        self._pipeline = self._thread.submit(self._open, Residency(residency)).result()

    async def ready(self, residency: str) -> str:
        """A `Ready`, once the engines are held like that."""
        pipeline = await asyncio.wrap_future(self._thread.submit(self._held, Residency(residency)))
        ready = Ready(
            backend=self._choice.backend.value, device=str(pipeline.device), residency=pipeline.residency.value
        )
        return ready.model_dump_json()

    async def make(self, job: str, settings: str, picture: bytes, residency: str) -> AsyncIterator[str | bytes]:
        """Make a clip: messages as JSON, the MP4 as bytes before the last one. Who ends the call ends the clip."""
        call = _Call(job, asyncio.get_running_loop())
        order = (call, CLIP_SETTINGS.validate_json(settings), picture, Residency(residency))
        work = self._thread.submit(self._make, *order)
        work.add_done_callback(lambda _work: call.tell(None))
        try:
            while (said := await call.next()) is not None:
                yield said
            work.result()
        finally:
            call.is_wanted = False  # the engines end the clip between two steps; the next one waits for that
            work.cancel()  # if it waits itself

    def check_health(self) -> None:
        """Serve asks every few seconds, and replaces a replica that keeps answering with an error.

        Raises:
            ServingError: The clip at work hangs.
        """
        call = self._at_work
        if call is not None and time.monotonic() - call.spoke_at > self._silence_seconds:
            raise ServingError(f"the engines have been silent for more than {self._silence_seconds:g} s")

    # In the engines' thread

    def _open(self, residency: Residency) -> VCutPipeline:
        options = EngineOptions(residency=residency, cuda_graphs=self._cuda_graphs)
        return warmed_up(VCutPipeline.from_choice(self._bundle, self._choice, options), self._warm_up)

    def _held(self, residency: Residency) -> VCutPipeline:
        """The pipeline; opened again where a runner that ran out of memory wants its engines a stage at a time.

        Never back: runners that share a replica would undo each other's wish.
        """
        if residency is Residency.STAGED and self._pipeline.residency is not Residency.STAGED:
            self._pipeline.close()
            try:
                self._pipeline = self._open(residency)
            except BaseException:
                _end_soon()  # there is no pipeline to go on with
                raise
        return self._pipeline

    def _make(self, call: _Call, settings: ClipSettings, picture: bytes, residency: Residency) -> None:
        try:
            pipeline = self._held(residency)
        except VcutError as error:
            code = ErrorCode.OUT_OF_MEMORY if isinstance(error, DeviceMemoryError) else ErrorCode.FAILED
            call.send(Failed(job=call.job, code=code, message=str(error), is_broken=True))
            return
        with TemporaryDirectory() as folder:
            call.video = Path(folder) / "clip.mp4"
            order = Make(job=call.job, picture=Path(folder) / "first.png", video=call.video, settings=settings)
            order.picture.write_bytes(picture)
            maker = ClipMaker(pipeline, call, call)
            call.spoke_at, self._at_work = time.monotonic(), call
            try:
                is_well = maker.make(order)
            finally:
                self._at_work = None
        if not is_well:
            _end_soon()  # a damaged GPU context is not mended; Serve starts another replica


def _end_soon() -> None:
    """End the process, once what it has said is on its way."""
    threading.Timer(LAST_WORDS_SECONDS, os._exit, (1,)).start()


class _Call:
    """One order at the replica: what the engines' thread says, and whether somebody still listens."""

    def __init__(self, job: str, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.video = Path()  # what `Made` speaks of
        self.is_wanted = True
        self.spoke_at = 0.0
        self._loop = loop
        self._said: asyncio.Queue[str | bytes | None] = asyncio.Queue()

    async def next(self) -> str | bytes | None:
        """What is said next; None: it was all."""
        return await self._said.get()

    def tell(self, said: str | bytes | None) -> None:
        """Say something, from any thread."""
        self.spoke_at = time.monotonic()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the replica ends
            self._loop.call_soon_threadsafe(self._said.put_nowait, said)

    def send(self, message: BaseModel) -> None:
        """Say a message. See `Outbox`."""
        if isinstance(message, Made):
            self.tell(self.video.read_bytes())
        self.tell(message.model_dump_json())

    def is_stopped(self, _job: str) -> bool:
        """Whether the caller has gone. See `Inbox`."""
        return not self.is_wanted


class RayWorker:
    """Has clips made by whichever replica is free. See `VideoWorker`.

    Args:
        replicas: A DeploymentHandle of `ClipReplica`.
        silence_seconds: How long a replica at work may be silent before it counts as hung.
    """

    def __init__(self, replicas: Any, *, silence_seconds: float) -> None:
        self._replicas = replicas
        self._streaming = replicas.options(stream=True)  # now: the first use of a handle is not safe in threads
        self._silence_seconds = silence_seconds + SPARE_SECONDS
        self._residency = Residency.AUTO
        self._mutex = threading.Lock()
        self._request: _Request | None = None  # at work
        self._stopped = ""  # the last job that `stop` was called for
        self._is_killed = False
        self._is_broken = False
        self._is_ending = False

    def start(self, residency: Residency, _tell: OnWarming) -> Ready:
        """Wait until a replica is there and holds its engines like that. See `VideoWorker.start`.

        A replica that warms up is not there yet: Serve asks it nothing.
        """
        self._residency = residency
        self._is_killed = self._is_broken = False
        while True:
            request = self._registered(_Request(""))
            try:
                self._go_on("", has_begun=False)
                request.begin(self._replicas.ready.remote(residency.value))
                answer = request.response.result()
                request.is_over = True
                return Ready.model_validate_json(answer)
            except RequestCancelledError:
                self._go_on("", has_begun=False)
                raise WorkerLostError("the call to a replica was cancelled") from None
            except RayActorError as error:
                logger.warning("a replica ended while it was asked: %s", first_line(error).rstrip("."))
            except (RayError, RayServeException) as error:
                raise ServingError(f"no replica can be used: {first_line(error).rstrip('.')}") from error
            finally:
                self._done_with(request)

    def make(self, order: Make) -> Iterator[StageBegun | StepDone | Made]:
        """See `VideoWorker.make`. A job that no replica has begun says that it waits."""
        request = self._registered(_Request(order.job))
        try:
            self._go_on(order.job, has_begun=False)
            settings, picture = CLIP_SETTINGS.dump_json(order.settings).decode(), order.picture.read_bytes()
            request.begin(self._streaming.make.remote(order.job, settings, picture, self._residency.value))
            threading.Thread(target=request.read, daemon=True, name="replica's messages").start()
            yield from self._followed(request, order)
        finally:
            self._done_with(request)

    def stop(self, job: str) -> None:
        """See `VideoWorker.stop`."""
        with self._mutex:
            self._stopped = job
            if self._request is not None and self._request.job == job:
                self._request.end()

    def kill(self) -> None:
        """Give up the call at work. The replicas live on: they are Serve's, and other runners' too."""
        with self._mutex:
            self._is_killed = True
            if self._request is not None:
                self._request.end()

    def close(self) -> None:
        """See `VideoWorker.close`; there is nothing of its own."""

    def end_waiting(self) -> None:
        """From now on begin nothing, and wait for no replica: the server ends, and they may end before it."""
        with self._mutex:
            self._is_ending = True
            if self._request is not None and not self._request.has_begun:
                self._request.end()

    @property
    def is_alive(self) -> bool:
        """Whether the replica that had the last job is well."""
        return not self._is_broken

    def _followed(self, request: _Request, order: Make) -> Iterator[StageBegun | StepDone | Made]:
        doing = ""
        while True:
            has_begun = request.has_begun
            said = request.next(self._silence_seconds if has_begun else LOOK_SECONDS)
            self._go_on(order.job, has_begun=has_begun)
            if said is None and has_begun:
                self._lose(f"it was silent for {self._silence_seconds:.0f} s, {doing}")
            elif said is None:
                yield StageBegun(job=order.job, stage=WAITING)
            elif isinstance(said, bytes):
                yield from self._kept(said, order)
            else:
                event = self._event(said, order.job)
                if isinstance(event, Made):
                    request.is_over = True
                    yield event
                    return
                doing = f"after {event.stage}"
                yield event

    def _kept(self, video: bytes, order: Make) -> Iterator[StageBegun]:
        """Write a video, again and again while the disk is full or fails; each attempt after the first is told."""
        while True:
            try:
                order.video.write_bytes(video)
            except OSError as error:
                if passing_fault(error) is None:
                    raise
                logger.error("job %s: %s; again in %.0f s", order.job, error, PAUSE_SECONDS)  # noqa: TRY400
            else:
                return
            time.sleep(PAUSE_SECONDS)
            self._go_on(order.job, has_begun=True)
            yield StageBegun(job=order.job, stage=ENCODE)

    def _event(self, said: str | BaseException, job: str) -> StageBegun | StepDone | Made:
        if isinstance(said, BaseException):
            self._lose(first_line(said).rstrip("."))
        try:
            message = FROM_WORKER.validate_json(said)
        except ValidationError:
            self._lose(f"it said {said[:200]!r}")
        if getattr(message, "job", None) != job:
            self._lose(f"it spoke of something else: {message!r}")
        if isinstance(message, Failed):
            self._is_broken = message.is_broken
            raise JobFailedError(message.code, message.message)
        if not isinstance(message, (StageBegun, StepDone, Made)):
            self._lose(f"it said {message!r}")
        return message

    def _go_on(self, job: str, *, has_begun: bool) -> None:
        """Raise what ends the call at work, if anything does."""
        if job and self._stopped == job:
            raise WorkerStoppedError
        if self._is_killed:
            raise WorkerLostError("the call to a replica was broken off")
        if self._is_ending and not has_begun:
            raise WorkerLostError("the server is ending; no replica had begun")

    def _registered(self, request: _Request) -> _Request:
        with self._mutex:
            self._request = request
        return request

    def _done_with(self, request: _Request) -> None:
        with self._mutex:
            self._request = None
            request.end()

    def _lose(self, reason: str) -> NoReturn:
        raise WorkerLostError(f"a replica was lost: {reason}")


class _Request:
    """One call of a replica, made in one thread, which another one may end."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.has_begun = False  # the replica has said something
        self.is_over = False
        self.response: Any = None
        self._is_ended = False
        self._news: queue.Queue[str | bytes | BaseException | None] = queue.Queue()

    def begin(self, response: Any) -> None:
        """Note what Serve calls its response."""
        self.response = response
        if self._is_ended:
            response.cancel()

    def read(self) -> None:
        """Put what comes where `next` finds it, until no more comes."""
        try:
            for said in self.response:
                self.has_begun = True
                self._news.put(said)
        except Exception as error:  # noqa: BLE001  # whatever it is, whoever waits is told
            self._news.put(error)
        else:
            self._news.put(EOFError("it ended without a word"))

    def next(self, seconds: float) -> str | bytes | BaseException | None:
        """What comes next; None: nothing in that time, or `end` was called."""
        try:
            return self._news.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self) -> None:
        """Cancel the call, wherever it is, unless it is over."""
        self._is_ended = True
        self._news.put(None)
        if self.response is not None and not self.is_over:
            self.response.cancel()
