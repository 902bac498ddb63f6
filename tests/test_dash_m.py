"""`python -m` of every module does something or says that it does not; none ends without a word."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import vcut_trt
from vcut_trt.dash_m import RUNS_SOMETHING, module_to_run, refuse_library_modules

ROOT = Path(__file__).parents[1]
PACKAGES = ("vcut_trt", "benchmarks", "examples")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py"
}
COMMANDS = [name for name, path in MODULES.items() if RUNS_SOMETHING.search(path.read_text(encoding="utf-8"))]
PACKAGES_WITHOUT_A_COMMAND = sorted(
    {name.rpartition(".")[0] for name in MODULES} - {name.removesuffix(".__main__") for name in COMMANDS}
)
FOREIGN = {"examples.triton_client"}  # needs a client's environment: it says which package is missing


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_commands_are_found_and_so_are_their_parts() -> None:
    assert {"vcut_trt.__main__", "benchmarks.tables", "benchmarks.latency.__main__", "examples.miniature.world"} <= {
        *COMMANDS
    }
    assert {"vcut_trt.errors", "benchmarks.cells", "benchmarks.latency.plot"} <= MODULES.keys() - {*COMMANDS}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {*COMMANDS}))
def test_a_module_that_is_no_command_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", name, "--help"])
    package = name.partition(".")[0]
    with pytest.raises(SystemExit) as ended:
        refuse_library_modules(package, ROOT / package, "A hint.")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"error: {name} is a module to import, not a command. A hint.\n")


@pytest.mark.parametrize("name", ["vcut_trt.engines.base", "benchmarks.latency.plot"])
def test_python_asks_before_it_runs_a_module(name: str) -> None:
    ended = run("-m", name, "--help")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {name} is a module to import, not a command. ")
    assert len(ended.stderr.splitlines()) == 1


def test_every_package_asks() -> None:
    for package in PACKAGES:
        assert "    refuse_library_modules(" in (ROOT / package / "__init__.py").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in FOREIGN])
def test_a_command_shows_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert not ended.value.code
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.parametrize("name", [*PACKAGES_WITHOUT_A_COMMAND[:2], *FOREIGN, "vcut_trt.nonsense"])
def test_python_itself_says_what_cannot_be_run(name: str) -> None:
    ended = run("-m", name)
    assert ended.returncode == 1
    assert "No module named" in ended.stderr


def test_another_program_may_import_us_and_name_us() -> None:
    program = "import sys, vcut_trt.errors; assert 'vcut_trt.dash_m' not in sys.modules; print('alive')"
    assert run("-c", program, "-m", "vcut_trt.errors").stdout == "alive\n"
    assert run("-m", "timeit", "-n", "1", "-s", "import vcut_trt", "vcut_trt.errors").returncode == 1  # not imported


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("python -m vcut_trt.errors", "vcut_trt.errors"),
        ("python -W error -m vcut_trt.errors x", "vcut_trt.errors"),
        ("python -Im vcut_trt.errors", "vcut_trt.errors"),
        ("python -m pytest -m vcut_trt.errors", "pytest"),
        ("python script.py", ""),
        ("python", ""),
    ],
)
def test_the_module_is_read_off_the_command_line(line: str, module: str) -> None:
    assert module_to_run(line.split()) == module


def test_the_version_is_that_of_the_installed_package() -> None:
    ended = run("-m", "vcut_trt", "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"vcut_trt {vcut_trt.__version__}\n", "")
    assert vcut_trt.__version__ == metadata.version("vcut-trt")


def test_a_checkout_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("vcut_trt.version.version", not_found)
    assert vcut_trt.__version__ == "0+unknown"
