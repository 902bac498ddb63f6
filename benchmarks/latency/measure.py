"""The run: every contender makes one video a round.

    round 0     untimed: kernels are compiled, CUDA graphs captured, memory is watched, the video is compared with stock
    round 1 …   timed, in the same order: what slows the machine down for a while slows all of them

On the CPU all systems stay open (`places.AllOpen`). On a GPU one is open at a time (`places.OneOpen`), for a card holds
one of them; a round opens each anew, and lets it make an untimed video before the timed ones.

A contender that fails is left out, with the reason; the others go on. Only stock may not fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.latency.availability import Bundles, LeftOut, why_not
from benchmarks.latency.contenders import BACKENDS, REFERENCE, Contender, System
from benchmarks.latency.memory import Peak
from benchmarks.latency.places import AllOpen, place_for
from benchmarks.latency.quality import Quality, compare
from benchmarks.latency.systems import Clip
from benchmarks.latency.work import Work
from benchmarks.latency.workers import ContenderError, FirstVideo, OpenWorker
from vcut_trt.measure.timing import VideoTimes
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
    systems = dict.fromkeys(contender.system for contender in contenders)
    folders = {
        system: bundles[system.cross_attention].root if system.kind in BACKENDS else None
        for system in systems
        if _is_available(system, contenders, work, bundles, run)
    }
    running = [contender for contender in contenders if contender.system in folders]
    with place_for(work, folders, open_worker) as place:
        firsts = _round_zero(running, work, place, run, progress)
        times: dict[Contender, list[VideoTimes]] = {contender: [] for contender in firsts}
        total = work.repeats * len(times)
        with progress.stage(f"{work.repeats} timed rounds of {len(times)} contenders") as advance:
            for index in range(work.repeats):
                for done, (contender, video) in enumerate(_timed_round(tuple(firsts), work, place, run)):
                    times[contender] += video
                    advance(index * len(times) + done + 1, total)
    run.measured = tuple(
        _measured(contender, first, firsts[REFERENCE].clip, times[contender])
        for contender, first in firsts.items()
        if not run.leaves_out(contender)
    )
    return run


def _round_zero(
    running: Sequence[Contender], work: Work, place: AllOpen, run: Run, progress: Progress
) -> Mapping[Contender, FirstVideo]:
    """Everybody's untimed video."""
    firsts: dict[Contender, FirstVideo] = {}
    for contender in running:
        with _leaving_out(contender, run), progress.stage(f"warm-up: {contender.name}"):
            firsts[contender] = place.worker(contender.system).first(contender.schedule(work.steps))
    return firsts


def _timed_round(
    contenders: Sequence[Contender], work: Work, place: AllOpen, run: Run
) -> Iterator[tuple[Contender, list[VideoTimes]]]:
    """One video of everybody, in the table's order, in which the contenders of a system follow each other."""
    for contender in contenders:
        video: list[VideoTimes] = []
        if not run.leaves_out(contender):
            with _leaving_out(contender, run):
                video.append(place.worker(contender.system).timed(contender.schedule(work.steps)))
        yield contender, video


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


def _is_available(system: System, contenders: Sequence[Contender], work: Work, bundles: Bundles, run: Run) -> bool:
    """Whether a system can be opened here; if not, its contenders are left out."""
    reason = why_not(system, work, bundles)
    if reason is not None:
        run.left_out += [
            LeftOut(name=contender.name, reason=reason) for contender in contenders if contender.system == system
        ]
    return reason is None
