"""The proof: one stage after the other, each in a process of its own, and a report that is whole after each of them.

A stage that fails, hangs or crashes is a line of the report, and the next one runs. What passed in an earlier run on
the same machine with the same options is kept, so an interrupted proof goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmarks.gpu_proof.catalogue import MACHINE, STAGES, Stage
from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.outcome import Outcome, State
from benchmarks.gpu_proof.report import Report, make_report, write
from benchmarks.gpu_proof.stage import OUTCOMES
from vcut_trt.errors import ConfigError, VcutError
from vcut_trt.work.files import write_atomically

Launch = Callable[[Stage, float], Outcome]
"""Runs a stage for so many seconds at most; StageTimeoutError where they do not suffice."""

SETTINGS, LOGS, KERNELS = "settings.json", "logs", "kernels"
SHORTEST_SECONDS = 5.0  # less is not worth a stage's start
PATIENCE_SECONDS = 10.0  # for what is stopped to clean up
WAITING, RUNNING = "it has not been its turn yet", "it was running when this was written"
TIME_WAS_UP, INTERRUPTED = "the time was up; --minutes gives more", "interrupted"


class StageTimeoutError(VcutError):
    """A stage took longer than it may."""


def prove(config: ProofConfig, minutes: float, launch: Launch, tell: Callable[[Outcome], None]) -> Report:
    """Run every stage that has not passed yet; the report lies in the folder whatever happens.

    Args:
        config: What to prove, and where.
        minutes: For all of it.
        launch: Runs a stage.
        tell: Is told every outcome.
    """
    deadline = time.monotonic() + 60 * minutes
    earlier = _earlier(config)
    outcomes: dict[str, Outcome] = {}
    why_not = INTERRUPTED
    try:
        for stage in STAGES:
            left = deadline - time.monotonic()
            outcome = _kept(stage, earlier, outcomes) or _unmet(stage, outcomes)
            if outcome is None and left < SHORTEST_SECONDS:
                outcome = _not_run(stage, TIME_WAS_UP)
            if outcome is None:
                write(make_report(config, [*outcomes.values(), _not_run(stage, RUNNING)], WAITING), config.folder)
                outcome = _launched(stage, left, launch, config.patience)
            outcomes[stage.name] = outcome
            tell(outcome)
            write(make_report(config, list(outcomes.values()), WAITING), config.folder)
        why_not = WAITING
    finally:
        report = make_report(config, list(outcomes.values()), why_not)
        write(report, config.folder)
    return report


class ProcessLaunch:
    """Stages in processes of their own. See `Launch`."""

    def __init__(self, config: ProofConfig) -> None:
        self._config = config

    def __call__(self, stage: Stage, seconds: float) -> Outcome:
        """Run a stage; stop it, with all that it started, when its time is up or the caller is interrupted."""
        folder = self._config.folder
        result, log = folder / OUTCOMES / f"{stage.name}.json", folder / LOGS / f"{stage.name}.log"
        result.unlink(missing_ok=True)
        log.parent.mkdir(exist_ok=True)
        start = time.monotonic()
        with log.open("wb") as words:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "benchmarks.gpu_proof.stage", stage.name, *self._config.words()],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VCUT_TRT_CACHE": str(folder / KERNELS)},
                start_new_session=True,  # Ctrl-C comes to us alone, and what the stage started is stopped with it
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                _stop(process)
                raise StageTimeoutError from None
            except BaseException:
                _stop(process)
                raise
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return _failed(stage, start, f"its process ended with {how}: {_last_line(log)}")
        return Outcome.model_validate_json(result.read_bytes())


def forget(config: ProofConfig) -> None:
    """Let every stage run again."""
    if (config.folder / SETTINGS).exists():
        shutil.rmtree(config.folder / OUTCOMES, ignore_errors=True)


def _earlier(config: ProofConfig) -> dict[str, Outcome]:
    """What earlier runs with these options have found; those of others are forgotten, and their bundles stay."""
    folder, settings = config.folder, json.dumps(config.words())
    place = folder / SETTINGS
    if folder.exists() and not place.exists() and any(folder.iterdir()):
        raise ConfigError(f"--output is {folder}, which holds something else than a proof: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not place.exists() or place.read_text(encoding="utf-8") != settings:
        shutil.rmtree(folder / OUTCOMES, ignore_errors=True)
        write_atomically(place, settings.encode())
    (folder / OUTCOMES).mkdir(exist_ok=True)
    return {outcome.stage: outcome for outcome in map(_read, (folder / OUTCOMES).glob("*.json")) if outcome}


def _read(path: Path) -> Outcome | None:
    try:
        return Outcome.model_validate_json(path.read_bytes())
    except ValidationError:
        return None  # of another version of the proof


def _kept(stage: Stage, earlier: dict[str, Outcome], outcomes: dict[str, Outcome]) -> Outcome | None:
    """What an earlier run has found, if it still holds: on the same machine, and over stages that were kept too."""
    before = earlier.get(stage.name)
    if stage.name == MACHINE or before is None or before.state not in (State.PASSED, State.SKIPPED):
        return None
    same_machine = MACHINE in earlier and earlier[MACHINE].figures == outcomes[MACHINE].figures
    kept_too = all(outcomes[need] is earlier.get(need) for need in stage.needs if need != MACHINE)
    return before if same_machine and kept_too else None


def _unmet(stage: Stage, outcomes: dict[str, Outcome]) -> Outcome | None:
    for need in stage.needs:
        state = outcomes[need].state
        if state is State.SKIPPED:
            return Outcome(stage=stage.name, title=stage.title, state=state, seconds=0, reason=outcomes[need].reason)
        if state is not State.PASSED:
            return _not_run(stage, f"it needs the stage {need}, which has {state.value}")
    return None


def _launched(stage: Stage, left: float, launch: Launch, patience: float) -> Outcome:
    minutes, start = patience * stage.limit_minutes, time.monotonic()
    limit = 60 * minutes
    try:
        return launch(stage, min(left, limit))
    except StageTimeoutError:
        if left < limit:
            return _not_run(stage, TIME_WAS_UP)
        return _failed(stage, start, f"it took more than {minutes:g} minutes and was stopped")


def _not_run(stage: Stage, reason: str) -> Outcome:
    return Outcome(stage=stage.name, title=stage.title, state=State.NOT_RUN, seconds=0, reason=reason)


def _failed(stage: Stage, start: float, reason: str) -> Outcome:
    seconds = round(time.monotonic() - start, 1)
    return Outcome(stage=stage.name, title=stage.title, state=State.FAILED, seconds=seconds, reason=reason)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(PATIENCE_SECONDS)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _last_line(log: Path) -> str:
    lines: Sequence[str] = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    return lines[-1] if lines else "it says nothing"
