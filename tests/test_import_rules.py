"""Who may import whom, and what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_rules import circle, floor_violations, import_graph, imported, modules, room

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vcut_trt"
FLOORS = (
    ("dash_m", "errors", "version"),
    ("work",),
    ("spec",),
    ("bundle",),
    ("checkpoints",),
    ("export", "engines"),
    ("runtime",),
    ("pretrained", "measure", "batch", "serving"),
    ("commands",),
    ("__main__",),
)
"""From the ground up. A floor imports what stands before it in this list; neighbours do not import each other."""

APART = {"runtime": {"export", "checkpoints"}, "engines": {"checkpoints"}}
"""What stands below and still is not used: running a bundle takes nothing of what made it."""

FRAMEWORKS = {"torch", "onnx", "diffusers"}
MUST_NOT_IMPORT = {
    "export": {"onnxruntime", "polygraphy", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"},
    "engines": {"diffusers", "onnxscript", "onnx_ir", "transformers"},
    "runtime": {"onnx", "onnx_ir", "onnxscript"},
    "": {"torch"},
    "errors": FRAMEWORKS,
    "work": FRAMEWORKS,
    "spec": FRAMEWORKS,
    "bundle": FRAMEWORKS,
}
COMMANDS = ("export", "generate", "plan", "build", "tune", "bench", "inspect", "serve", "keys", "batch", "triton")
TREE = modules(ROOT, ("vcut_trt",))
EVERYTHING = modules(ROOT, ("vcut_trt", "benchmarks", "examples"))
MODULES = sorted(TREE.values())


def test_no_module_imports_from_a_floor_above_or_from_a_neighbour() -> None:
    assert floor_violations(import_graph(TREE), FLOORS) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(import_graph(EVERYTHING)) == []


def test_nobody_imports_the_benchmarks_or_the_tests() -> None:
    for path in MODULES:
        assert not {name.split(".")[0] for name in imported(path)} & {"benchmarks", "examples", "tests"}, path


def test_every_folder_says_what_lives_there() -> None:
    for folder in {path.parent for path in MODULES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


@pytest.mark.parametrize("module", sorted(TREE))
def test_a_module_imports_only_what_it_may(module: str) -> None:
    names, here = imported(TREE[module]), room(module)
    ours = {room(name) for name in names if name.startswith("vcut_trt.")}
    assert not ours & APART.get(here, set())
    assert not {name.split(".")[0] for name in names} & MUST_NOT_IMPORT.get(here, set())
    assert not [name for name in names if name.startswith("vcut_trt.") and name.rpartition(".")[2].startswith("_")]


# The checker itself, on trees that break the rules.


def write_tree(root: Path, files: dict[str, str]) -> dict[str, set[str]]:
    for name, source in files.items():
        path = root / "vcut_trt" / name
        for folder in (path.parent, *path.parent.relative_to(root).parents):
            (root / folder).mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return import_graph(modules(root, ("vcut_trt",)))


HONEST = {
    "errors.py": "",
    "commands/app.py": "def main():\n    import vcut_trt.serving.feed\n",
    "serving/feed.py": "from vcut_trt.runtime.pipeline import run\n",
    "runtime/pipeline.py": "from vcut_trt import errors\n",
    "runtime/image.py": "",
    "measure/bench.py": "from vcut_trt.runtime import pipeline\n",
    "pretrained.py": "",
}


def test_an_honest_tree_breaks_no_rule(tmp_path: Path) -> None:
    graph = write_tree(tmp_path, HONEST)
    assert floor_violations(graph, FLOORS) == []
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        (
            "serving/feed.py",
            "def later():\n    import vcut_trt.commands.app\n",
            "vcut_trt.serving.feed imports vcut_trt.commands.app",
        ),
        (
            "runtime/image.py",
            "from vcut_trt.measure.bench import time_it\n",
            "vcut_trt.runtime.image imports vcut_trt.measure.bench",
        ),
        (
            "measure/bench.py",
            "from vcut_trt.pretrained import load_pretrained\n",
            "vcut_trt.measure.bench imports vcut_trt.pretrained",
        ),
        ("attic/junk.py", "", "vcut_trt.attic.junk stands on no floor"),
    ],
    ids=["commands from serving", "backwards into measure", "a neighbour", "no floor"],
)
def test_an_import_from_above_is_seen(tmp_path: Path, file: str, source: str, said: str) -> None:
    assert floor_violations(write_tree(tmp_path, {**HONEST, file: source}), FLOORS) == [said]


def test_a_circle_is_seen_also_one_through_a_function(tmp_path: Path) -> None:
    there = "from vcut_trt.runtime import image\n"
    back = "def load():\n    from vcut_trt.runtime.pipeline import run\n    return run\n"
    graph = write_tree(tmp_path, {**HONEST, "runtime/pipeline.py": there, "runtime/image.py": back})
    assert set(circle(graph)) == {"vcut_trt.runtime.image", "vcut_trt.runtime.pipeline"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_do_nothing_but_define(path: Path) -> None:
    """No logging is set up and no folder made: a module's own statements call no function of the standard library."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{path.name}:{node.lineno} runs when it is imported"


def test_no_pickle_is_read() -> None:
    for path in MODULES:
        names = imported(path)
        assert not {name.split(".")[0] for name in names} & {"pickle", "dill", "cloudpickle"}
        assert "torch.load(" not in path.read_text(encoding="utf-8")


def loaded_by(program: str, *arguments: str) -> set[str]:
    """The top-level modules loaded after `program` has run in a fresh interpreter."""
    listing = "\nimport sys; print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", program + listing, *arguments], check=True, capture_output=True, text=True
    )
    assert result.stderr == ""
    return set(result.stdout.rpartition("loaded:")[2].split())


def test_importing_the_package_loads_no_framework() -> None:
    loaded = loaded_by("import vcut_trt")
    assert "vcut_trt" in loaded
    assert not loaded & {
        "torch",
        "onnxruntime",
        "onnx",
        "tensorrt",
        "tensorrt_rtx",
        "diffusers",
        "transformers",
        "numpy",
    }


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([command, "--help"] for command in COMMANDS)],
)
def test_help_loads_no_framework(arguments: list[str]) -> None:
    program = (
        "from vcut_trt.commands.app import main\nimport sys\ntry: main()\nexcept SystemExit as end: assert not end.code"
    )
    assert not loaded_by(program, *arguments) & {
        "torch",
        "onnxruntime",
        "onnx",
        "tensorrt",
        "diffusers",
        "transformers",
        "fastapi",
        "ray",
    }


def test_the_public_names_are_there_and_others_are_attribute_errors() -> None:
    import vcut_trt

    for name in vcut_trt.__all__:
        assert getattr(vcut_trt, name).__name__ == name
    assert dir(vcut_trt) == sorted(vcut_trt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vcut_trt.nonsense  # noqa: B018


@pytest.mark.parametrize(("kept", "expected"), [(True, {"a.b", "c"}), (False, {"c"})])
def test_the_reader_of_imports_sees_functions_and_type_checking(tmp_path: Path, kept: bool, expected: set[str]) -> None:
    source = "if TYPE_CHECKING:\n    from a import b\ndef f():\n    import c\n"
    (tmp_path / "module.py").write_text(source)
    assert imported(tmp_path / "module.py", for_types=kept) == expected
