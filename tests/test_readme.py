"""What the README and the docs tell users to type, open or import exists."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app, export_app

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"vcut": get_command(app), "vcut-export": get_command(export_app)}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MAKE_TARGET = re.compile(r"^([\w-]+):", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def lines_of(page: Path, program: str) -> list[str]:
    """The lines of the page's `sh` blocks that call `program`, without their comments."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(words) for line in lines if (words := shlex.split(line, comments=True)) and words[0] == program]


def on_pages(program: str) -> list[object]:
    """A test parameter for every line of every page that calls `program`."""
    return [
        pytest.param(line, id=f"{page.name}: {line}")
        for page in PAGES
        for line in dict.fromkeys(lines_of(page, program))
    ]


def why_unusable(line: str) -> str | None:
    """What the command's own parser says against `line`, without running it."""
    program, *words = shlex.split(line)
    command = COMMANDS[program]
    try:
        if program == "vcut":
            if not words or words[0] not in command.commands:
                return f"vcut has no command {' '.join(words[:1])!r}"
            command, words = command.commands[words[0]], words[1:]
        command.make_context(program, words)
    except Exception as error:  # noqa: BLE001  # Typer's own click: its exceptions have no public name
        return str(error)
    return None


def make_targets(makefile: str) -> set[str]:
    return set(MAKE_TARGET.findall(makefile))


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def names_that_do_not_exist(code: str) -> list[str]:
    """Of `from vcut_trt… import name`, the names that are not there."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vcut_trt"):
            module = import_module(node.module or "")
            missing += [alias.name for alias in node.names if not hasattr(module, alias.name)]
    return missing


def test_the_readme_shows_the_commands_of_its_first_screen() -> None:
    assert {"make demo", "make test"} <= set(lines_of(README, "make"))
    assert "vcut-export --model svd-xt" in lines_of(README, "vcut-export")
    assert "vcut generate build/svd-xt photo.png -o clip.mp4" in lines_of(README, "vcut")


@pytest.mark.parametrize("line", [*on_pages("vcut"), *on_pages("vcut-export")])
def test_commands_can_be_parsed(line: str) -> None:
    assert why_unusable(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "vcut paint x",
        "vcut",
        "vcut generate build/svd-xt",
        "vcut inspect build/x --gpu-memory much",
        "vcut-export --out x",
    ],
)
def test_commands_that_cannot_be_parsed_are_noticed(line: str) -> None:
    assert why_unusable(line) is not None


@pytest.mark.parametrize("line", on_pages("make"))
def test_make_targets_exist(line: str) -> None:
    targets = make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(line.split()[1:]) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](page.md#one-two) [b](gone.md) [c](#three) [d](https://example.org/x)\n")
    assert broken_links(page) == ["gone.md", "#three"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles_and_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        assert names_that_do_not_exist(block) == []


def test_names_that_do_not_exist_are_noticed() -> None:
    assert names_that_do_not_exist("from vcut_trt import VCutPipeline, Magic") == ["Magic"]


def test_the_five_lines_of_python_make_a_video(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks(README, "python")
    assert len([line for line in code.splitlines() if line]) == 5
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "svd-xt").symlink_to(nano_bundle.root)
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)  # noqa: S102  # the README's own code
    clip = names["clip"]
    assert isinstance(clip, list)
    assert [picture.size for picture in clip] == [(128, 64)] * nano_bundle.manifest.video.frames
