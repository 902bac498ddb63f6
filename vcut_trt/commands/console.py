"""What the commands show: progress, tables, errors. Everything but answers goes to stderr."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from vcut_trt.errors import VcutError
from vcut_trt.work.files import printable
from vcut_trt.work.progress import Advance

RAISE_AGAIN_SECONDS = 0.05
INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM came: like Ctrl-C, so that every clean-up runs."""


class ConsoleProgress:
    """A bar for each stage while it runs, and one line with its time when it is done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """Show a stage; the bar pulses until the first step is reported."""
        start = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Progress(
            *columns,
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as bars:
            task = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
        with suppress(OSError):  # a stderr that takes nothing more is no reason to lose the work
            self._console.print(f"  {title}  [dim]{time.monotonic() - start:.1f} s[/dim]")

    def message(self, text: str) -> None:
        """Print one line."""
        with suppress(OSError):
            self._console.print(printable(text), markup=False)


@contextmanager
def reporting(*, debug: bool) -> Iterator[None]:
    """Turn errors of ours into one message and an exit code; SIGTERM into an interruption that cleans up.

    Exit codes: 1 the work failed or a check did not hold, 2 wrong usage, 130 and 143 interrupted.
    """

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        with _no_interruption_lost():
            yield
    except VcutError as error:
        if debug:
            raise
        fail(f"error: {error}", error.exit_code)
    except Terminated:
        fail("terminated: what was unfinished has been removed", TERMINATED)
    except KeyboardInterrupt:
        fail("interrupted: what was unfinished has been removed", INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _no_interruption_lost() -> Iterator[None]:
    """Raise an interruption again that came inside a destructor or a weak reference's callback, where it is dropped."""
    lost: list[BaseException] = []
    default_hook = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and hasattr(signal, "setitimer"):
            lost.append(unraisable.exc_value)
            signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_SECONDS)
        else:
            default_hook(unraisable)

    def raise_again(_signal: int, _frame: FrameType | None) -> None:
        raise type(lost[-1])

    has_alarm = hasattr(signal, "SIGALRM")  # not on Windows
    previous = signal.signal(signal.SIGALRM, raise_again) if has_alarm else None
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = default_hook
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def fail(message: str, code: int) -> None:
    """Say why on stderr and exit."""
    print(printable(message), file=sys.stderr)
    raise typer.Exit(code)


def begin_log(level: int) -> None:
    """Log to stderr, a line for each record."""
    logging.basicConfig(level=level, handlers=[_log_handler()])


def _log_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


class _Printable(logging.Formatter):
    """Part of a message may be a stranger's: a name, what a decoder says of a picture."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        return printable(super().formatMessage(record))
