"""Classic TensorRT's timings: where they lie, that they outlive builds, and the builder's levels."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.tensorrt import build, builder
from vcut_trt.engines.tensorrt.build import BuildConfig
from vcut_trt.engines.tensorrt.builder import HIGHEST_LEVEL, Tools, engine_bytes
from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.engines.tensorrt.targets import parse_targets
from vcut_trt.engines.tensorrt.timing_cache import TimingCache, timing_cache, timing_cache_path
from vcut_trt.errors import BuildError
from vcut_trt.spec.interface import GraphName
from vcut_trt.work.progress import SILENT

NATIVE = BuildConfig(targets=parse_targets(["native"]))
TRT = ModuleType("tensorrt")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return timing_cache_path(tmp_path / "svd-xt", "NVIDIA A10", "10.13.3.9")


def test_they_lie_beside_the_bundle_by_gpu_and_version(kept: Path, tmp_path: Path) -> None:
    assert kept == tmp_path / "svd-xt-timing" / "nvidia-a10-tensorrt10.13.3.9.cache"


def test_what_one_build_timed_the_next_one_reads(kept: Path) -> None:
    with timing_cache(kept) as cache:
        assert not cache.path.exists()
        cache.keep()  # nothing was timed
        assert not kept.parent.exists()
        cache.path.write_bytes(b"timings")
        cache.keep()
    assert not cache.path.exists(), "the copy goes"
    with timing_cache(kept) as cache:
        assert cache.path.read_bytes() == b"timings"


def test_timings_outlive_a_build_that_fails(kept: Path) -> None:
    def fail() -> None:
        with timing_cache(kept) as cache:
            cache.path.write_bytes(b"timings of the first graph")
            cache.keep()
            raise BuildError("the second graph")

    with pytest.raises(BuildError):
        fail()
    assert kept.read_bytes() == b"timings of the first graph"


def test_timings_that_cannot_be_kept_are_told_and_stop_no_build(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept.parent.write_text("not a folder")
    with timing_cache(kept) as cache:
        cache.path.write_bytes(b"timings")
        cache.keep()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("level", [HIGHEST_LEVEL, None])
def test_the_builder_is_given_the_level_and_the_timings(
    level: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import polygraphy.backend.trt as trt_backend

    asked: dict[str, Any] = {}
    monkeypatch.setattr(trt_backend, "CreateConfig", lambda **options: asked.update(options))
    monkeypatch.setattr(trt_backend, "engine_bytes_from_network", lambda _parsed, **options: asked.update(options))
    copy = tmp_path / "timing.cache"
    copy.write_bytes(b"timings")
    tools = Tools(trt=TRT, flavour=Flavour.CLASSIC, capabilities=((8, 6),), timings=TimingCache(tmp_path / "k", copy))
    engine_bytes(None, tools, level, None)
    assert asked["builder_optimization_level"] == level
    assert asked["load_timing_cache"] == asked["save_timing_cache"] == str(copy)


class Builds:
    """In the place of the builder: fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.levels: list[int | None] = []

    def write_plan(self, _tools: Tools, level: int | None, *_rest: Any) -> Any:
        self.levels.append(level)
        if len(self.levels) <= self.failures:
            raise BuildError("TensorRT could not build unet_cfg: out of memory.")
        return {"scratch_bytes": 0}, ()


@pytest.mark.parametrize(
    ("flavour", "failures", "levels"),
    [
        (Flavour.CLASSIC, 0, [HIGHEST_LEVEL]),
        (Flavour.CLASSIC, 1, [HIGHEST_LEVEL, None]),
        (Flavour.RTX, 0, [None]),
    ],
)
def test_classic_builds_try_the_highest_level_first(
    flavour: Flavour, failures: int, levels: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = Builds(failures)
    messages = built(builds, flavour, tmp_path, monkeypatch)
    assert builds.levels == levels
    assert len(messages) == failures
    if failures:
        assert "out of memory. Once more, at TensorRT's own builder optimization level instead of 5." in messages[0]


@pytest.mark.parametrize(("flavour", "attempts"), [(Flavour.CLASSIC, 2), (Flavour.RTX, 1)])
def test_what_cannot_be_built_at_any_level_is_an_error(
    flavour: Flavour, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = Builds(9)
    with pytest.raises(BuildError, match="could not build unet_cfg"):
        built(builds, flavour, tmp_path, monkeypatch)
    assert len(builds.levels) == attempts


def built(builds: Builds, flavour: Flavour, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Build one graph; what was told."""
    messages: list[str] = []
    monkeypatch.setattr(build, "_write_plan", builds.write_plan)
    monkeypatch.setattr(SILENT, "message", messages.append)
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(step_graphs=(), precision=None))
    tools = Tools(trt=TRT, flavour=flavour, capabilities=((8, 6),))
    build._build(tools, bundle, GraphName.UNET_CFG, folder, NATIVE, SILENT)
    return messages


def test_the_folder_of_the_plans_holds_plans_alone_and_the_timings_outlive_it(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole build for this machine's GPU, with a stand-in for the builder."""
    root = Path(shutil.copytree(nano_bundle.root, tmp_path / "nano"))
    seen: list[bytes] = []

    def write_plan(tools: Tools, _level: object, _bundle: object, _name: object, plan: Path, *_rest: Any) -> Any:
        assert tools.timings is not None
        before = tools.timings.path.read_bytes() if tools.timings.path.exists() else b""
        seen.append(before)
        tools.timings.path.write_bytes(before + b"+")
        plan.write_bytes(b"plan")
        return dict.fromkeys(builder.MEMORY_LINES, 1), ()

    module = ModuleType("tensorrt")
    module.__version__ = "10.13.3.9"  # type: ignore[attr-defined]
    monkeypatch.setattr(build, "_write_plan", write_plan)
    monkeypatch.setattr(build, "choose_flavour", lambda *_asked: Flavour.CLASSIC)
    monkeypatch.setattr(build, "load", lambda _flavour: module)
    monkeypatch.setattr(build, "_capabilities", lambda *_asked: ((8, 6),))
    monkeypatch.setattr(build, "_gpu_name", lambda: "NVIDIA A10")
    bundle = build.build_plans(Bundle.open(root), NATIVE)
    graphs = len(bundle.manifest.graphs)
    (folder,) = (root / "plans").iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".plan"}
    kept = timing_cache_path(root, "NVIDIA A10", "10.13.3.9")
    assert kept.read_bytes() == b"+" * graphs
    shutil.rmtree(folder)
    build.build_plans(Bundle.open(root), NATIVE)
    assert seen[graphs] == b"+" * graphs
