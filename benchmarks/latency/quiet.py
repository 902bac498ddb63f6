"""Whether the host was quiet: a busy one flatters whoever happens to run while the others are away.

pair      stock and a contender, one right after the other, in alternating order; its ratio is stock's seconds over its
speed-up  the median ratio of the pairs; nobody gets one where the host was not quiet
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vcut_trt.measure.timing import VideoTimes

MOST_LOAD_BEFORE = 0.25  # of a core, for each core: what else ran when we began
MOST_SPREAD = 1.25  # the largest ratio of a contender's pairs over the smallest
MOST_CPU_DRIFT = 1.2  # the most CPU-seconds per second of a contender's videos over the fewest: who waits gets fewer


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One timed video."""

    times: VideoTimes
    cpu_s: float  # of the contender's process, all threads

    @property
    def cpu_rate(self) -> float:
        """CPU-seconds per second."""
        return self.cpu_s / self.times.total_s


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A contender's video and the stock video beside it."""

    stock: Reading
    own: Reading

    @property
    def ratio(self) -> float:
        """Stock's seconds over the contender's."""
        return self.stock.times.total_s / self.own.times.total_s


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Of a contender's pairs."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Ratios:
        """Sum up at least one pair."""
        ratios = [pair.ratio for pair in pairs]
        return cls(median=statistics.median(ratios), smallest=min(ratios), largest=max(ratios))


def disturbances(name: str, pairs: Sequence[Pair], *, on_cpu: bool) -> list[str]:
    """What says that the host was not quiet while a contender's pairs were timed."""
    found = []
    ratios = Ratios.of(pairs)
    if ratios.largest > MOST_SPREAD * ratios.smallest:
        found.append(f"{name}: the ratios of its pairs spread over {ratios.smallest:.2f} … {ratios.largest:.2f}")
    for who, readings in (("stock", [pair.stock for pair in pairs]), (name, [pair.own for pair in pairs])):
        rates = [reading.cpu_rate for reading in readings]
        if on_cpu and max(rates) > MOST_CPU_DRIFT * min(rates):
            beside = "" if who == name else f" beside {name}"
            found.append(f"{who}{beside}: {min(rates):.2f} … {max(rates):.2f} CPU-seconds per second")
    return found


def load_before(load_average: float, cores: int) -> list[str]:
    """What the load average says, taken before the run."""
    if load_average <= MOST_LOAD_BEFORE * cores:
        return []
    return [f"load average {load_average:.2f} before the run, on {cores} cores"]
