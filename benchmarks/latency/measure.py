"""The run: open the systems, then let every contender make one video a round.

    round 0     untimed: kernels are compiled, CUDA graphs captured, memory is watched, the video is compared with stock
    round 1 …   timed, in the same order: what slows the machine down for a while slows all of them

A contender that fails is left out, with the reason; the others go on. Only stock may not fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.latency.availability import Bundles, LeftOut, why_not
from benchmarks.latency.contenders import BACKENDS, REFERENCE, Contender, System
from benchmarks.latency.memory import Peak
from benchmarks.latency.quality import Quality, compare
from benchmarks.latency.systems import Clip
from benchmarks.latency.work import Work
from benchmarks.latency.workers import ContenderError, FirstVideo, OpenWorker, Worker
from vcut_trt.measure.timing import VideoTimes, interleaved
from vcut_trt.work.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a contender did."""

    contender: Contender
    quality: Quality
    peak: Peak
    counted_flops: int | None  # of denoising, where it was counted while it ran
    times: tuple[VideoTimes, ...]  # of the timed rounds, in their order


@dataclass
class Run:
    """What a run has found so far."""

    measured: tuple[Measured, ...] = ()
    left_out: list[LeftOut] = field(default_factory=list)

    def leaves_out(self, contender: Contender) -> bool:
        """Whether the contender has failed."""
        return any(item.name == contender.name for item in self.left_out)


def measure(
    contenders: Sequence[Contender], work: Work, bundles: Bundles, open_worker: OpenWorker, progress: Progress = SILENT
) -> Run:
    """Run all rounds; the reference is the first of `contenders`.

    Raises:
        ContenderError: The reference cannot run.
    """
    assert contenders[0] == REFERENCE, contenders[0]
    run = Run()
    with ExitStack() as closing:
        workers = _open_all(contenders, work, bundles, open_worker, run, closing, progress)
        running = [contender for contender in contenders if contender.system in workers]
        firsts: dict[Contender, FirstVideo] = {}
        for contender in running:
            with _leaving_out(contender, run), progress.stage(f"warm-up: {contender.name}"):
                firsts[contender] = workers[contender.system].first(contender.schedule(work.steps))
        times: dict[Contender, list[VideoTimes]] = {contender: [] for contender in firsts}
        with progress.stage(f"{work.repeats} timed rounds of {len(times)} contenders") as advance:
            for done, (_, contender) in enumerate(interleaved(firsts, work.repeats)):
                if not run.leaves_out(contender):
                    with _leaving_out(contender, run):
                        times[contender].append(workers[contender.system].timed(contender.schedule(work.steps)))
                advance(done + 1, len(firsts) * work.repeats)
    stock = firsts[REFERENCE].clip
    run.measured = tuple(
        _measured(contender, first, stock, times[contender])
        for contender, first in firsts.items()
        if not run.leaves_out(contender)
    )
    return run


@contextmanager
def _leaving_out(contender: Contender, run: Run) -> Iterator[None]:
    """Write down a contender that fails, and go on; the reference's failure is everybody's."""
    try:
        yield
    except ContenderError as error:
        if contender == REFERENCE:
            raise
        run.left_out.append(LeftOut(name=contender.name, reason=str(error)))


def _measured(contender: Contender, first: FirstVideo, stock: Clip, times: list[VideoTimes]) -> Measured:
    return Measured(
        contender=contender,
        quality=compare(first.clip, stock),
        peak=first.peak,
        counted_flops=first.clip.denoising_flops,
        times=tuple(times),
    )


def _open_all(
    contenders: Sequence[Contender],
    work: Work,
    bundles: Bundles,
    open_worker: OpenWorker,
    run: Run,
    closing: ExitStack,
    progress: Progress,
) -> dict[System, Worker]:
    """The systems that can be opened; who cannot run is written down in `run`."""
    workers: dict[System, Worker] = {}
    systems = list(dict.fromkeys(contender.system for contender in contenders))
    with progress.stage("open systems") as advance:
        for done, system in enumerate(systems):
            reason = why_not(system, work, bundles)
            if reason is None:
                folder = bundles[system.cross_attention].root if system.kind in BACKENDS else None
                try:
                    worker = open_worker(system, work, folder)
                    closing.callback(worker.close)
                    workers[system] = worker
                except ContenderError as error:
                    if system == REFERENCE.system:
                        raise
                    reason = str(error)
            if reason is not None:
                names = [contender.name for contender in contenders if contender.system == system]
                run.left_out += [LeftOut(name=name, reason=reason) for name in names]
            advance(done + 1, len(systems))
    return workers
