"""Time that only goes forward, at its own pace, whatever happens to the clock on the wall.

What is old and what is late is decided by steady seconds: those that a server ran, and those between two servers of one
boot of the machine. What nobody can vouch for (a clock that was set, a machine that was off) counts as nothing: a video
that is kept too long can still be deleted, one that was deleted is gone. Wall time is for people to read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

JUMP_SECONDS = 10.0  # more than a clock is corrected by between two looks, while it works
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Machine:
    """The clocks of this machine."""

    def __init__(self) -> None:
        try:
            self.boot = BOOT_ID.read_text().strip()
        except OSError:
            self.boot = ""  # not known: no boot is the same as another

    def wall(self) -> float:
        """Seconds since 1970, UTC, as the machine has been told."""
        return time.time()

    def since_boot(self) -> float:
        """Seconds that have passed, sleep included; nobody can set them."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What all clocks showed at one moment."""

    steady: float
    wall: float
    boot: str
    since_boot: float


class SteadyClock:
    """Steady seconds. They began as the wall's when there was no reading yet.

    Args:
        machine: Its clocks.
        last: What an earlier server read last; None: there was none.
        latest: The largest steady time that was ever noted: it is not later than now.
    """

    def __init__(self, machine: Machine, last: Reading | None, latest: float) -> None:
        self._machine = machine
        here, wall = machine.since_boot(), machine.wall()
        is_same_boot = last is not None and last.boot == machine.boot != "" and here >= last.since_boot
        if last is None:
            steady = latest or wall
        else:
            steady = max(latest, last.steady + (here - last.since_boot if is_same_boot else 0.0))
        self._begin = steady - here
        is_known = last is not None and (is_same_boot or wall < last.wall)  # else it may have been off for as long
        self._ahead = last.wall - last.steady if last is not None and is_known else wall - steady

    def now(self) -> float:
        """Steady seconds."""
        return self._begin + self._machine.since_boot()

    def wall(self) -> float:
        """Seconds since 1970, for people."""
        return self._machine.wall()

    def reading(self) -> Reading:
        """All clocks, for the next server."""
        return Reading(
            steady=self.now(), wall=self.wall(), boot=self._machine.boot, since_boot=self._machine.since_boot()
        )

    def jump(self) -> float:
        """By how many seconds the wall's clock was set since the last look; 0: it was not."""
        ahead = self.wall() - self.now()
        jump, self._ahead = ahead - self._ahead, ahead
        return jump if abs(jump) > JUMP_SECONDS else 0.0
