"""Every "do X" in a message: the commands and options that it names exist and parse, the extras are there.

Where one piece of advice once led to another refusal, it is followed to its end.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer

import vcut_trt
from vcut_trt.commands import views
from vcut_trt.commands.app import app, export_app
from vcut_trt.engines.tensorrt import module
from vcut_trt.engines.tensorrt.module import FlavourChoice, choose_flavour
from vcut_trt.engines.tensorrt.targets import parse_targets
from vcut_trt.errors import BuildError, ConfigError
from vcut_trt.measure.quality import Metric
from vcut_trt.measure.tune import TuneConfig, TuneResult
from vcut_trt.pretrained import load_pretrained
from vcut_trt.runtime.arguments import check_latents, check_sizes, check_videos
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

ROOT = Path(vcut_trt.__file__).parents[1]
PACKAGE = sorted((ROOT / "vcut_trt").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
VCUT = typer.main.get_command(app)
EXPORT = typer.main.get_command(export_app)
BLANK = "{}"  # what a message fills in
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
COMMAND = re.compile(r"(?<![\w./-])vcut ([a-z]+)")
WORDS = r"(?: (?:--?[a-z][a-z-]*|\{\}|[A-Z]+|native|a10|[0-9]+))*"
CHECKOUT_ONLY = re.compile(
    r"(?<![\w./-])(?:docs|benchmarks|examples|tests)/|\.md\b|python -m (?:benchmarks|examples)|\bmake [a-z]+`"
)
FULL_COMMAND = re.compile(rf"(?<![\w./-])(vcut [a-z]+|vcut-export)({WORDS})")
OTHERS_OPTIONS = {
    "--gpus",  # docker run
    "--force-reinstall",  # pip install
    "--no-deps",  # pip install
    "--yes",  # pip uninstall
    "--upgrade",  # pip install
    "--model-repository",  # tritonserver
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """A string of the source that is no docstring; what it fills in is BLANK."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def messages(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside | alone:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Message(path=path, line=node.lineno, text=node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else BLANK for part in node.values]
            yield Message(path=path, line=node.lineno, text="".join(map(str, parts)))


def options_of(command: object) -> set[str]:
    """All long options of a command and of those below it."""
    found = {option for one in getattr(command, "params", ()) for option in (*one.opts, *one.secondary_opts)}
    for below in getattr(command, "commands", {}).values():
        found |= options_of(below)
    return found


def passed_to_children() -> set[str]:
    """The options of modules that the package starts as processes of its own."""
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE]
    return {
        option
        for text in sources
        for line in re.findall(r"add_argument\((.*)", text)
        for option in OPTION.findall(line)
    }


OPTIONS = passed_to_children() | options_of(VCUT) | options_of(EXPORT) | {"--help"} | OTHERS_OPTIONS


def declared(path: Path) -> set[str]:
    """The options that a benchmark's modules declare themselves, by typer's rule from a parameter's name."""
    found: set[str] = set()
    beside = path.parent.glob("*.py") if path.parent != ROOT / "benchmarks" else [path]
    for one in beside:
        source = one.read_text(encoding="utf-8")
        found |= {f"--{name.replace('_', '-')}" for name in re.findall(r"^ +(\w+): ", source, re.MULTILINE)}
        found |= set(re.findall(r'"(--[a-z-]+)"', source))
    return found


def faults(text: str, more_options: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]  # read only
    """What a message names and is not there."""
    told = [f"vcut {name}" for name in COMMAND.findall(text) if name not in VCUT.commands]  # type: ignore[attr-defined]
    told += [option for option in OPTION.findall(text) if option not in OPTIONS | more_options]
    for program, words in FULL_COMMAND.findall(text):
        if OPTION.search(words) and f"{program}{words}" not in told:
            why = why_unusable(program, shlex.split(words))
            told += [f"{program}{words}: {why}"] if why else []
    told += [name for name in re.findall(r"load_pretrained\(…, (\w+)=", text) if name not in ARGUMENTS]
    for extra in re.findall(r"vcut[-_]trt\[([\w-]+)\]", text):
        told += [extra] if extra not in EXTRAS else []
    for name in re.findall(r"python -m ([a-z][\w.]*)", text):
        told += [name] if name != "pip" and find_spec(name) is None else []
    return told


PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
ARGUMENTS = inspect.signature(load_pretrained).parameters
EXTRAS = re.findall(r"^([\w-]+) = \[", PROJECT.partition("\n[")[0], re.MULTILINE)


def why_unusable(program: str, words: list[str]) -> str | None:
    """Why Typer does not take a command in full; None if it does."""
    command = EXPORT
    if program != "vcut-export":
        command = VCUT.commands.get(program.partition(" ")[2])  # type: ignore[attr-defined]
    if command is None:
        return "no such command"
    try:
        command.make_context(program, [word.replace(BLANK, "7") for word in words])
    except Exception as error:  # noqa: BLE001  # typer's own click has several
        text = str(getattr(error, "message", "") or error)
        # advice need not repeat a command's arguments, nor text about an option its value
        return None if not text or "Missing" in text or "requires an argument" in text else text
    return None


def test_what_messages_name_exists() -> None:
    told = [f"{message}: {fault}" for path in PACKAGE for message in messages(path) for fault in faults(message.text)]
    assert told == []


def test_messages_name_no_file_that_an_installed_package_lacks() -> None:
    """What pip installs has neither docs nor benchmarks, and there is no address to name instead."""
    assert [str(message) for path in PACKAGE for message in messages(path) if CHECKOUT_ONLY.search(message.text)] == []


@pytest.mark.parametrize("text", ["see docs/gpu.md", "(README.md)", "run python -m benchmarks.soak", "run `make gpu`"])
def test_such_a_file_is_noticed(text: str) -> None:
    assert CHECKOUT_ONLY.search(text)


def test_what_the_benchmarks_messages_name_exists() -> None:
    told = [
        f"{message}: {option}"
        for path in BENCHMARKS
        for message in messages(path)
        for option in OPTION.findall(message.text)
        if option not in OPTIONS | declared(path) | SHARED
    ]
    assert told == []


SHARED = declared(ROOT / "benchmarks" / "options.py") | {"--plot", "--output", "--bundle", "--images", "--suite"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Use --residence staged.", "--residence"),
        ("make some with vcut plans", "vcut plans"),
        ("build again: vcut build {} --target native --backend cpu", "backend"),
        ("vcut-export --model {} --steps 3", "steps"),
        ('pip install "vcut-trt[all]"', "all"),
        ("Run python -m vcut_trt.nothing", "vcut_trt.nothing"),
        ("take bf16, with load_pretrained(…, dtype=…)", "dtype"),
    ],
)
def test_what_does_not_exist_is_noticed(text: str, fault: str) -> None:
    assert fault in " ".join(faults(text))


def test_enough_is_looked_at() -> None:
    texts = [message.text for path in PACKAGE for message in messages(path)]
    assert sum(bool(OPTION.search(text)) for text in texts) > 60
    assert sum(bool(COMMAND.search(text)) for text in texts) > 8
    assert "vcut build {} --target native" in texts


# Advice that another rule once refused, followed


def test_a_target_that_a_machine_without_a_gpu_is_told_is_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_cuda_gpu", lambda: False)
    monkeypatch.setattr(module, "why_torch_sees_no_gpu", lambda: None)
    monkeypatch.setattr(module, "installed", lambda _flavour: True)
    for choice in FlavourChoice:
        if choice is FlavourChoice.CLASSIC:
            with pytest.raises(BuildError) as refused:
                choose_flavour(choice, parse_targets(["a10"]))
            assert "native" not in str(refused.value)  # nothing here could do that
        with pytest.raises(BuildError) as caught:
            choose_flavour(choice, parse_targets(["native"]))
        advice = dict(re.findall(r"--(target|tensorrt) (\w+)", str(caught.value).partition("Name one")[2]))
        choose_flavour(FlavourChoice(advice.get("tensorrt", choice.value)), parse_targets([advice["target"]]))


@pytest.mark.parametrize("cut_step", [33, 51])
def test_a_tuned_cut_of_other_steps_is_advised_with_them(cut_step: int, capsys: pytest.CaptureFixture[str]) -> None:
    config = TuneConfig(metric=Metric.PSNR, at_least=30, num_inference_steps=50, seeds=(0,))
    views.show_tuned(TuneResult(cut_step=cut_step, num_inference_steps=50, points=()), config, as_json=False)
    words = re.findall(r"--\S+ \d+", capsys.readouterr().out)
    context = VCUT.commands["generate"].make_context("generate", ["b", "i.png", *" ".join(words).split()])  # type: ignore[attr-defined]
    assert (context.params["steps"], context.params["cut_step"]) == (50, cut_step)


VIDEO = VideoSpec(videos=1, frames=6, height=64, width=128, decode_chunk=3)
check_size = partial(check_sizes, VIDEO, **dict.fromkeys(("height", "width", "num_frames", "decode_chunk_size")))


@pytest.mark.parametrize(
    ("given", "check"),
    [
        ("height", partial(check_size, height=2)),
        ("width", partial(check_size, width=2)),
        ("num_frames", partial(check_size, num_frames=2)),
        ("decode_chunk_size", partial(check_size, decode_chunk_size=2)),
        ("videos", partial(check_videos, VIDEO, 2, 3)),
        ("latents", partial(check_latents, VIDEO, torch.zeros(1))),
    ],
)
def test_a_pipeline_of_a_checkpoint_is_not_told_of_a_bundle(given: str, check: Callable[[], None]) -> None:
    """Its words are those of any pipeline, and name what decides for both kinds."""
    with pytest.raises(ConfigError) as caught:
        check()
    text = str(caught.value)
    assert "bundle" not in text
    if given != "latents":
        option, argument = re.findall(r"vcut-export (--[a-z-]+), or with load_pretrained\(…, (\w+)=", text)[0]
        assert (option in options_of(EXPORT), argument in ARGUMENTS) == (True, True)


def test_an_overflow_is_told_in_the_words_of_both() -> None:
    for precision in (Precision.FP16, Precision.BF16):
        remedy = precision.row.overflow_remedy
        assert ("vcut-export --precision" in remedy, "load_pretrained(…, precision=…)" in remedy) == (True, True)
