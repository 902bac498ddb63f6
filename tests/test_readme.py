"""What the README and the docs tell users to type, open or import exists."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import av
import pytest
import typer
from PIL import Image
from typer.main import get_command

from benchmarks.published import PUBLISHED, UNCUT
from benchmarks.vbench.record import VIDEOS_PER_IMAGE
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app, export_app

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAPER = ROOT / "docs" / "paper.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"vcut": get_command(app), "vcut-export": get_command(export_app)}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(vcut(?:-export)? [^`\n]+)`")
PAPERS_NAMES = {"svd": "SVD", "svd-xt": "SVD-XT", "svd-xt-1.1": "SVD-XT 1.1"}
MAKE_TARGET = re.compile(r"^([\w-]+):", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def lines_of(page: Path, program: str) -> list[str]:
    """The lines of the page's `sh` blocks that call `program`, without comments and what the shell does with them."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(words) for line in lines if (words := command_of(line)) and words[0] == program]


def command_of(line: str) -> list[str]:
    """The words of a line up to `>`, `|` or `&&`."""
    return [*takewhile(lambda word: word not in {">", "|", "&&"}, shlex.split(line, comments=True))]


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
        if program == "vcut" and words[:1] != ["--version"]:
            if not words or words[0] not in command.commands:
                return f"vcut has no command {' '.join(words[:1])!r}"
            command, words = command.commands[words[0]], words[1:]
        command.make_context(program, words)
    except typer.Exit:
        return None  # --version and --help end there
    except Exception as error:  # noqa: BLE001  # Typer's own click: its exceptions have no public name
        return str(error)
    return None


def why_no_command(line: str) -> str | None:
    """Why `python -m …` cannot be run: no such module, none that runs, or words that its parser does not take."""
    module, *words = shlex.split(line)[2:]
    if module == "pytest" or module == "pip":
        return None
    spec = find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        return f"there is no {module}"
    if 'if __name__ == "__main__":' not in Path(spec.origin).read_text(encoding="utf-8"):
        return f"{module} runs nothing"
    found = import_module(spec.name)
    if not hasattr(found, "typer"):
        return None  # argparse: it parses when it runs
    try:
        command = get_command(found.app if hasattr(found, "app") else _app_of(found.main))
        if hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(module, words)
    except Exception as error:  # noqa: BLE001  # as above
        return str(error)
    return None


def _app_of(main: object) -> typer.Typer:
    application = typer.Typer()
    application.command()(main)  # type: ignore[type-var]
    return application


def unknown_words(code: str) -> list[str]:
    """Of a command in running text, `vcut bench BUNDLE --cut-step 17`, the command or options that do not exist."""
    program, *words = code.split()
    command = COMMANDS[program]
    if program == "vcut" and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return [words[0]]
        command = command.commands[words[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if re.fullmatch("--?[a-z][a-z-]*", word) and word not in {*known, "--help"}]


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
    """Of `from vcut_trt… import name` and `from diffusers… import name`, the names that are not there."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("vcut_trt", "diffusers")):
            module = import_module(node.module or "")
            missing += [alias.name for alias in node.names if not hasattr(module, alias.name)]
    return missing


def test_the_readme_shows_the_commands_of_its_first_screen() -> None:
    assert {"make demo", "make test"} <= set(lines_of(README, "make"))
    assert "vcut-export --model svd-xt" in lines_of(README, "vcut-export")
    assert "vcut generate build/svd-xt photo.png -o clip.mp4" in lines_of(README, "vcut")
    assert README.read_text(encoding="utf-8").count("GPU yet") == 1, "the GPU status is said once"


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


@pytest.mark.parametrize("line", on_pages("python"))
def test_modules_can_be_run_with_these_words(line: str) -> None:
    if line.split()[1] == "-m":
        assert why_no_command(line) is None
    else:
        assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize(
    "line",
    [
        "python -m benchmarks.nonsense",
        "python -m benchmarks.cells",
        "python -m benchmarks",
        "python -m benchmarks.tables --plots x",
        "python -m benchmarks.vbench generate build/x --output run",
        "python -m benchmarks.vbench paint",
    ],
)
def test_modules_that_cannot_be_run_are_noticed(line: str) -> None:
    assert why_no_command(line) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_running_text_have_these_options(page: Path) -> None:
    for code in INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        assert unknown_words(code) == [], code


def test_options_that_do_not_exist_are_noticed() -> None:
    assert unknown_words("vcut bench BUNDLE --cut-steps 17") == ["--cut-steps"]
    assert unknown_words("vcut paint") == ["paint"]
    assert unknown_words("vcut --version") == []


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


def test_the_python_of_the_readme_makes_a_video(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = blocks(README, "python")
    assert "StableVideoDiffusionPipeline" in before
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "svd-xt").symlink_to(nano_bundle.root)
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(after, str(README), "exec"), {})  # noqa: S102  # the README's own code
    with av.open("clip.mp4") as container:
        assert container.streams.video[0].average_rate == 7
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(128, 64)] * nano_bundle.manifest.video.frames


def test_the_gpu_hours_are_the_papers_seconds_times_the_videos() -> None:
    rows = re.findall(
        r"^\| (SVD[^|]*) \| (never|\d+) \| ([\d.]+) \| (\d+) \| (\d+) \|$", PAPER.read_text("utf-8"), re.MULTILINE
    )
    hours = {(name, cut): (seconds, int(few), int(many)) for name, cut, seconds, few, many in rows}
    expected = {
        (PAPERS_NAMES[model], "never" if cut == UNCUT else str(cut)): (
            str(seconds),
            round(355 * VIDEOS_PER_IMAGE * seconds / 3600),
            round(1118 * VIDEOS_PER_IMAGE * seconds / 3600),
        )
        for model, paper in PUBLISHED.items()
        for cut, seconds in paper.latency_s.items()
    }
    assert hours == expected
    tables_1_and_4 = sum(
        seconds * (2 if cut == UNCUT else 1) for paper in PUBLISHED.values() for cut, seconds in paper.latency_s.items()
    )
    text = PAPER.read_text(encoding="utf-8")
    assert f"{355 * VIDEOS_PER_IMAGE * tables_1_and_4 / 3600:.0f} A10-hours" in text.replace("\n", " ")
