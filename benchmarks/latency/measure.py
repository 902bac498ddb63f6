"""The run: every contender is timed in pairs with stock.

    untimed      kernels are compiled, CUDA graphs captured, memory is watched, the video is compared with stock
    pair 1 …     timed: stock and the contender, then the contender and stock, …: close in time, in alternating order

On the CPU stock stays open, and one other system beside it (`places.Beside`). On a GPU one is open at a time
(`places.OneOpen`), for a card holds one of them: there a round is stock and then everybody, each opened anew and
warmed up by an untimed video.

A contender that fails is left out, with the reason; the others go on. Only stock may not fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.latency.availability import Bundles, LeftOut, why_not
from benchmarks.latency.contenders import BACKENDS, REFERENCE, Contender, System
from benchmarks.latency.memory import Peak
from benchmarks.latency.places import Beside, place_for
from benchmarks.latency.quality import Quality, compare
from benchmarks.latency.quiet import Pair, Reading
from benchmarks.latency.systems import Clip
from benchmarks.latency.work import Work
from benchmarks.latency.workers import ContenderError, FirstVideo, OpenWorker
from vcut_trt.work.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a contender did."""

    contender: Contender
    quality: Quality
    peak: Peak
    counted_flops: int | None  # of denoising, where it was counted while it ran
    pairs: tuple[Pair, ...]  # in their order; on the CPU every contender has stock videos of its own


Taken = tuple[Mapping[Contender, FirstVideo], Mapping[Contender, list[Pair]]]


class StockError(ContenderError):
    """Stock failed beside a contender, who is not to blame."""


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
        timed = _rounds if work.place.type == "cuda" else _beside_stock
        firsts, pairs = timed(running, work, place, run, progress)
    run.measured = tuple(
        _measured(contender, first, firsts[REFERENCE].clip, pairs[contender])
        for contender, first in firsts.items()
        if not run.leaves_out(contender)
    )
    return run


def _beside_stock(running: Sequence[Contender], work: Work, place: Beside, run: Run, progress: Progress) -> Taken:
    """Each system in turn: its untimed videos, then its pairs."""
    firsts: dict[Contender, FirstVideo] = {}
    pairs: dict[Contender, list[Pair]] = {contender: [] for contender in running}
    for system in dict.fromkeys(contender.system for contender in running):
        own = [contender for contender in running if contender.system == system]
        firsts.update(_round_zero(own, work, place, run, progress))
        warm = [contender for contender in own if contender in firsts]
        with progress.stage(f"{work.repeats} pairs each of {system.name} and stock") as advance:
            for index in range(work.repeats):
                for contender in warm:
                    if not run.leaves_out(contender):
                        with _leaving_out(contender, run):
                            pairs[contender].append(_pair(contender, work, place, stock_first=index % 2 == 0))
                advance(index + 1, work.repeats)
    return firsts, pairs


def _pair(contender: Contender, work: Work, place: Beside, *, stock_first: bool) -> Pair:
    """The two videos, one right after the other; stock is its own pair."""
    if contender == REFERENCE:
        own = _video(REFERENCE, work, place)
        return Pair(stock=own, own=own)
    order = (REFERENCE, contender) if stock_first else (contender, REFERENCE)
    made = {who: _video(who, work, place) for who in order}
    return Pair(stock=made[REFERENCE], own=made[contender])


def _video(contender: Contender, work: Work, place: Beside) -> Reading:
    """A timed video; that stock fails is nobody's fault but its own."""
    try:
        return place.worker(contender.system).timed(contender.schedule(work.steps))
    except ContenderError as error:
        if contender == REFERENCE:
            raise StockError(str(error)) from error
        raise


def _rounds(running: Sequence[Contender], work: Work, place: Beside, run: Run, progress: Progress) -> Taken:
    """Everybody's untimed video, then rounds of everybody: the stock video of a round is everybody's pair."""
    firsts = _round_zero(running, work, place, run, progress)
    pairs: dict[Contender, list[Pair]] = {contender: [] for contender in firsts}
    with progress.stage(f"{work.repeats} timed rounds of {len(firsts)} contenders") as advance:
        for index in range(work.repeats):
            stock = _video(REFERENCE, work, place)
            for done, contender in enumerate(firsts):
                if not run.leaves_out(contender):
                    with _leaving_out(contender, run):
                        own = stock if contender == REFERENCE else _video(contender, work, place)
                        pairs[contender].append(Pair(stock=stock, own=own))
                advance(index * len(firsts) + done + 1, work.repeats * len(firsts))
    return firsts, pairs


def _round_zero(
    running: Sequence[Contender], work: Work, place: Beside, run: Run, progress: Progress
) -> dict[Contender, FirstVideo]:
    """Everybody's untimed video."""
    firsts: dict[Contender, FirstVideo] = {}
    for contender in running:
        with _leaving_out(contender, run), progress.stage(f"warm-up: {contender.name}"):
            firsts[contender] = place.worker(contender.system).first(contender.schedule(work.steps))
    return firsts


@contextmanager
def _leaving_out(contender: Contender, run: Run) -> Iterator[None]:
    """Write down a contender that fails, and go on; the reference's failure is everybody's."""
    try:
        yield
    except ContenderError as error:
        if contender == REFERENCE or isinstance(error, StockError):
            raise
        run.left_out.append(LeftOut(name=contender.name, reason=str(error)))


def _measured(contender: Contender, first: FirstVideo, stock: Clip, pairs: list[Pair]) -> Measured:
    return Measured(
        contender=contender,
        quality=compare(first.clip, stock),
        peak=first.peak,
        counted_flops=first.clip.denoising_flops,
        pairs=tuple(pairs),
    )


def _is_available(system: System, contenders: Sequence[Contender], work: Work, bundles: Bundles, run: Run) -> bool:
    """Whether a system can be opened here; if not, its contenders are left out."""
    reason = why_not(system, work, bundles)
    if reason is not None:
        run.left_out += [
            LeftOut(name=contender.name, reason=reason) for contender in contenders if contender.system == system
        ]
    return reason is None
