"""Who may import whom, and what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vcut_trt"
TOP = {"batch", "commands", "measure", "pretrained", "serving"}
BASE = {"errors", "work", "spec", "bundle", "checkpoints"}
"""What every floor may use; the top floor may use everything."""

MAY_IMPORT = {
    "errors": set[str](),
    "work": {"errors", "bundle", "spec", "work"},
    "spec": {"errors", "spec"},
    "bundle": {"errors", "spec", "work", "bundle"},
    "checkpoints": {"errors", "spec", "work", "checkpoints"},
    "export": {*BASE, "export"},
    "engines": {*BASE, "engines"},
    "runtime": {*BASE, "engines", "runtime"},
}
MUST_NOT_IMPORT = {
    "export": {"onnxruntime", "polygraphy", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"},
    "engines": {"diffusers", "onnxscript", "onnx_ir", "transformers"},
    "runtime": {"onnx", "onnx_ir", "onnxscript"},
    "__init__": {"torch"},
    **{name: {"torch", "onnx", "diffusers"} for name in BASE - {"checkpoints"}},
}
COMMANDS = ("export", "generate", "build", "tune", "bench", "inspect", "serve", "keys", "batch", "triton")
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(path: Path) -> str:
    """`engines` for `engines/base.py`, `spec` for `spec.py`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path: Path, *, for_types: bool = True) -> set[str]:
    """The full names that a module imports, inside functions too."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if is_type_checking(node) and not for_types:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return names


def ours(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("vcut_trt.")}


def test_every_module_has_a_place_in_the_rules() -> None:
    assert {floor(path) for path in MODULES} <= {*MAY_IMPORT, *TOP, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    names = imported(path)
    if floor(path) in MAY_IMPORT:
        assert ours(names) <= MAY_IMPORT[floor(path)]
    forbidden = MUST_NOT_IMPORT.get(floor(path), set())
    assert not {name.split(".")[0] for name in names} & forbidden


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_the_top_floor_imports_it_and_nobody_reaches_into_privates(path: Path) -> None:
    names = imported(path)
    if floor(path) not in TOP and floor(path) != "__init__":
        assert not ours(names) & TOP
    assert not [name for name in names if name.startswith("vcut_trt.") and name.rpartition(".")[2].startswith("_")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_do_nothing_but_define(path: Path) -> None:
    """No logging is set up and no folder made: a module's own statements call no function of the standard library."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{path.name}:{node.lineno} runs when it is imported"


def test_serving_is_imported_by_its_commands_only() -> None:
    for path in MODULES:
        if floor(path) not in {"serving", "commands"}:
            assert "serving" not in ours(imported(path)), path


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
