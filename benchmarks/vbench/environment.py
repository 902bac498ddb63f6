"""VBench's environment: a virtual environment of its own, for its requirements contradict ours.

ENVIRONMENT/…                       what `python -m venv` and pip put there: several gigabytes
ENVIRONMENT/requirements.txt what was installed, written when all of it is
ENVIRONMENT/install.log             what venv and pip said
ENVIRONMENT/models/                 dreamsim's weights; it keeps them in `models` of its working folder
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.vbench.suite import VBenchError
from vcut_trt.work.files import write_atomically
from vcut_trt.work.progress import SILENT, Progress

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
LOG, MODELS = "install.log", "models"
LAST_LINES = 15


def interpreter(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(environment: Path, python: str, progress: Progress = SILENT) -> None:
    """Make the environment, or complete one that was begun.

    Raises:
        VBenchError: `environment` is something else, or `python` or pip fails.
    """
    try:
        environment.mkdir(parents=True, exist_ok=True)
        if {path.name for path in environment.iterdir()} - {LOG} and not (environment / "pyvenv.cfg").is_file():
            raise VBenchError(f"{environment} is no virtual environment; it is left alone. Name another folder.")
        log = environment / LOG
        with progress.stage("make the virtual environment"):
            run([python, "-I", "-m", "venv", str(environment)], log=log)
        pip = [str(interpreter(environment).absolute()), "-I", "-m", "pip", "install", "--requirement"]
        with progress.stage("install VBench and what it needs"):
            run([*pip, str(REQUIREMENTS)], log=log)
        (environment / MODELS).mkdir(exist_ok=True)
        write_atomically(environment / REQUIREMENTS.name, REQUIREMENTS.read_bytes())
    except OSError as error:
        raise VBenchError(f"cannot make an environment in {environment}: {error}") from error


def check_installed(environment: Path) -> Path:
    """The environment's Python.

    Raises:
        VBenchError: It is missing, its installation did not end, or it has other requirements.
    """
    hint = f"Run: python -m benchmarks.vbench install {environment}"
    if not interpreter(environment).is_file():
        raise VBenchError(f"there is no environment for VBench in {environment}. {hint} (several gigabytes)")
    try:
        installed = (environment / REQUIREMENTS.name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise VBenchError(f"the installation in {environment} did not end. {hint}") from None
    if installed != REQUIREMENTS.read_text(encoding="utf-8"):
        raise VBenchError(f"{environment} was made for other requirements than {REQUIREMENTS.name} has now. {hint}")
    return interpreter(environment).absolute()


def run(command: Sequence[str], *, log: Path, folder: Path | None = None) -> None:
    """Run a command; what it prints goes to `log`.

    Raises:
        VBenchError: It cannot be started, or fails; the message ends with its last lines.
    """
    try:
        with log.open("wb") as file:
            ended = subprocess.run(  # noqa: S603  # a Python that the user named, with arguments of ours
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
            )
    except OSError as error:
        raise VBenchError(f"cannot run {command[0]}: {error}") from error
    if ended.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        last = "\n".join(f"  {line}" for line in lines)
        name = Path(command[0]).name
        raise VBenchError(f"{name} ended with exit code {ended.returncode}; its last lines, of {log}:\n{last}")
