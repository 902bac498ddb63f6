"""The modules of the page: who imports what, read from their text. There is no build step that would find a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from html.parser import HTMLParser
from pathlib import Path

import pytest

import vcut_trt.serving
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.schedule import REFERENCE_STEPS

PAGE = Path(vcut_trt.serving.__file__).parent / "page"
MOST_LINES = 400
IMPORT = re.compile(r"^import \{([^{}]*)\} from '\./([\w-]+\.js)';$", re.MULTILINE)
EXPORT = re.compile(r"^export (?:const|let|class|async function\*?|function\*?) ([\w$]+)", re.MULTILINE)
ANY_IMPORT = re.compile(r"^\s*import\b|\bimport\(|^export\b.*\bfrom\b", re.MULTILINE)
ANY_EXPORT = re.compile(r"^\s*export\b", re.MULTILINE)


class Modules:
    """The scripts of a folder: their text, what they export, and what they import of whom."""

    def __init__(self, folder: Path) -> None:
        self.text = {path.name: path.read_text() for path in folder.glob("*.js")}
        self.exports = {name: set(EXPORT.findall(text)) for name, text in self.text.items()}
        self.imports = {name: list(imports_of(text)) for name, text in self.text.items()}

    def problems(self) -> Iterator[str]:
        for name, text in self.text.items():
            if len(ANY_IMPORT.findall(text)) != len(self.imports[name]):
                yield f"{name} imports in another way than: import {{ names }} from './file.js';"
            if len(ANY_EXPORT.findall(text)) != len(self.exports[name]):
                yield f"{name} exports in another way than: export before what is declared"
            for of, taken in self.imports[name]:
                for one in taken - self.exports.get(of, set()):
                    yield f"{name} imports {one}, which {of} does not export"
                for one in taken:
                    if not uses(IMPORT.sub("", text), one):
                        yield f"{name} imports {one} and does not use it"
        for name, exported in self.exports.items():
            wanted = {one for taken in self.imports.values() for of, some in taken if of == name for one in some}
            yield from (f"{name} exports {one}, which nobody imports" for one in exported - wanted)
        try:
            TopologicalSorter({name: {of for of, _ in taken} for name, taken in self.imports.items()}).prepare()
        except CycleError as error:
            yield f"a circle: {' → '.join(error.args[1])}"
        yield from (f"{name} is not reached from app.js" for name in self.text.keys() - self._reached("app.js"))

    def _reached(self, name: str) -> set[str]:
        """A module and all that it brings; no module is looked at twice."""
        found: set[str] = set()
        left = [name]
        while left:
            if (name := left.pop()) not in found:
                found.add(name)
                left += [of for of, _ in self.imports.get(name, [])]
        return found


def imports_of(text: str) -> Iterator[tuple[str, set[str]]]:
    for names, of in IMPORT.findall(text):
        yield of, {name.strip() for name in names.split(",") if name.strip()}


def uses(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w$.]){re.escape(name)}(?![\w$])", text) is not None


def test_the_modules_fit_together() -> None:
    modules = Modules(PAGE)
    assert len(modules.text) > 1
    assert list(modules.problems()) == []


def test_no_module_is_long() -> None:
    assert {name: n for name, text in Modules(PAGE).text.items() if (n := text.count("\n")) > MOST_LINES} == {}


GOOD = {
    "app.js": "import { a } from './a.js';\nimport { b } from './b.js';\n\nb(a);\n",
    "a.js": "import {\n  b,\n} from './b.js';\n\nexport const a = b(1);\n",
    "b.js": "export function b(n) {\n  return n;\n}\n",
}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("b.js", "import { a } from './a.js';\n\nexport const b = () => a;\n", "a circle: "),
        ("b.js", "const b = 1;\n", "app.js imports b, which b.js does not export"),
        ("b.js", "export const b = 1;\nexport const c = 1;\n", "b.js exports c, which nobody imports"),
        ("b.js", "const b = 1;\nexport { b };\n", "b.js exports in another way"),
        ("a.js", "import { b } from './b.js';\n\nexport const a = 1;\n", "a.js imports b and does not use it"),
        ("a.js", "import * as all from './b.js';\n\nexport const a = all.b;\n", "a.js imports in another way"),
        ("a.js", "export const a = (await import('./b.js')).b;\n", "a.js imports in another way"),
        ("a.js", "import { c } from './c.js';\n\nexport const a = c;\n", "a.js imports c, which c.js does not export"),
        ("c.js", "", "c.js is not reached from app.js"),
    ],
)
def test_what_does_not_fit_is_found(tmp_path: Path, name: str, text: str, problem: str) -> None:
    for file, content in GOOD.items():
        (tmp_path / file).write_text(content)
    assert list(Modules(tmp_path).problems()) == []
    (tmp_path / name).write_text(text)
    assert any(found.startswith(problem) for found in Modules(tmp_path).problems())


class Fields(HTMLParser):
    """The values of a form's numbers and the first option of each choice, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._select: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        name, value = of.get("name"), of.get("value")
        if tag == "input" and name and value is not None:
            self.values[name] = value
        elif tag == "select" and name:
            self._select = name
        elif tag == "option" and self._select and value is not None:
            self.values.setdefault(self._select, value)


def test_the_page_begins_with_the_defaults_of_a_clip() -> None:
    """The page is plain HTML, so its values stand there once more; they are those of every other way to ask."""
    fields = Fields()
    fields.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    defaults = {
        "num_inference_steps": REFERENCE_STEPS,
        "fps": ClipSettings.fps,
        "motion_bucket_id": ClipSettings.motion_bucket_id,
        "noise_aug_strength": ClipSettings.noise_aug_strength,
        "min_guidance_scale": ClipSettings.min_guidance_scale,
        "max_guidance_scale": ClipSettings.max_guidance_scale,
    }
    assert {name: float(fields.values[name]) for name in defaults} == defaults
    assert fields.values["fit"] == ClipSettings.fit.value
    assert fields.values["grid"] == ClipSettings.grid.value
