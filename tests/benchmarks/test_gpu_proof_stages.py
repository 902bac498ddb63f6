"""The stages of the proof on the stand-in: each passes, and each notices what it is there to notice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_proof import bundles, kernels, look, speed, stage, videos
from benchmarks.gpu_proof.catalogue import STAGES
from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.dry import NOT_PROVED, DrySite, dry_site, not_proved
from benchmarks.gpu_proof.outcome import DoesNotApplyError, DoesNotHoldError, State
from tests.benchmarks.test_gpu_proof import contender
from tests.engines.tensorrt.standin import with_plans
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.tensorrt.engine import TensorRTEngine
from vcut_trt.engines.tensorrt.module import FlavourChoice
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile
from vcut_trt.errors import ConfigError, EngineError
from vcut_trt.measure.doctor import Examination, Finding
from vcut_trt.measure.doctor import State as Found
from vcut_trt.measure.parity import Check
from vcut_trt.spec.interface import GraphName
from vcut_trt.work.progress import SILENT


@pytest.fixture(scope="module")
def made(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proof's folder with its `tiny`: the nano bundle, with plans for the stand-in."""
    place = tmp_path_factory.mktemp("gpu") / "tiny"
    shutil.copytree(nano_bundle.root, place)
    bundle = with_plans(nano_bundle, place, "rtx")
    (place / "bundle.json").write_text(bundle.manifest.to_json(), encoding="utf-8")
    return place.parent


@pytest.fixture
def config(made: Path) -> ProofConfig:
    return ProofConfig(folder=made, dry=True, steps=4, tensorrt=FlavourChoice.AUTO)


@pytest.fixture
def site(config: ProofConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DrySite]:
    monkeypatch.setenv("VCUT_TRT_CACHE", str(tmp_path / "kernels"))
    with dry_site(config) as site:
        monkeypatch.setattr(videos, "VIDEOS_OF_MANY_STEPS", 2)
        monkeypatch.setattr(speed, "REPEATS", 1)
        site.many_steps = 4
        site.bench_steps = 3
        yield site


def test_videos_with_and_without_graphs_are_the_same(site: DrySite) -> None:
    figures = videos.graphs(site, SILENT)
    assert (figures["largest_difference"], figures["largest_difference_of_one_seed"]) == (0, 0)
    assert [entry for entry in site.tensorrt().events if entry[0] == "replayed itself"]


def test_a_launch_that_is_not_captured_is_noticed(site: DrySite) -> None:
    site.tensorrt().uncapturable.add(GraphName.UNET_SINGLE)
    with pytest.raises(DoesNotHoldError, match="unet_single runs without a CUDA graph"):
        videos.graphs(site, SILENT)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        ([(0.0, 0.1, 0.0), (0.5, 0.1, 0.0)], "a pixel differs by 5.00e-01 between a video with CUDA graphs"),
        ([(0.2, 0.2, 0.2), (0.2, 0.2, 0.2)], "two seeds gave one video"),
        ([(0.0, 0.1, 0.3), (0.0, 0.1, 0.3)], "between two videos of one seed"),
    ],
    ids=["another video", "one that was captured", "not repeatable"],
)
def test_a_graph_that_gives_another_video_is_noticed(
    pictures: list[tuple[float, ...]], said: str, site: DrySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([[torch.tensor([value]) for value in row] for row in pictures])
    monkeypatch.setattr(videos, "_videos", lambda _site, *, cuda_graphs: next(made))
    with pytest.raises(DoesNotHoldError, match=said):
        videos.graphs(site, SILENT)


def test_engines_that_come_and_go_leave_nothing(site: DrySite) -> None:
    assert videos.staged(site, SILENT) == {"used_bytes": [0, 0, 0, 0], "grown_bytes": 0}


def test_an_engine_that_stays_is_noticed(site: DrySite, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(TensorRTEngine, "_free", lambda engine: kept.append(engine._engine))
    with pytest.raises(DoesNotHoldError, match="bytes are still taken after the engines were closed"):
        videos.staged(site, SILENT)


def test_many_steps_take_no_more_memory(site: DrySite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert videos.steps(site, SILENT) == {"steps": 4, "grown_bytes": 0}
    used = iter([100, 101])
    monkeypatch.setattr(site, "used_bytes", lambda: next(used))
    with pytest.raises(DoesNotHoldError, match="1 bytes more are taken after 4 steps"):
        videos.steps(site, SILENT)


def test_a_second_process_takes_the_kernels_of_the_first(site: DrySite) -> None:
    first = kernels.compiled(site, SILENT)
    site.tensorrt().events.clear()
    assert kernels.loaded(site, SILENT)["cache_bytes"] == first["cache_bytes"] > 0
    events = {entry[0] for entry in site.tensorrt().events}
    assert "kernels loaded" in events
    assert "kernels compiled" not in events


def test_kernels_that_are_not_kept_are_noticed(site: DrySite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RuntimeCacheFile, "save", lambda _file: None)
    with pytest.raises(DoesNotHoldError, match="no kernel cache was written"):
        kernels.compiled(site, SILENT)
    with pytest.raises(DoesNotHoldError, match="of the process before is gone"):
        kernels.loaded(site, SILENT)


@pytest.mark.parametrize(
    ("content", "said"), [(b"cache unet_cfg", "the cache grew by"), (b"rejected", "TensorRT rejects the runtime cache")]
)
def test_a_second_process_that_compiles_is_noticed(content: bytes, said: str, site: DrySite, tmp_path: Path) -> None:
    kernels.compiled(site, SILENT)
    (file,) = (tmp_path / "kernels" / kernels.OWN_FOLDER).glob("*.cache")
    file.write_bytes(content)
    with pytest.raises(DoesNotHoldError, match=said):
        kernels.loaded(site, SILENT)


def test_classic_tensorrt_has_no_kernels_to_keep(site: DrySite, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = site.bundle("tiny")
    plans = tuple(plan.model_copy(update={"flavour": "classic"}) for plan in bundle.manifest.plans)
    classic = Bundle(bundle.root, bundle.manifest.model_copy(update={"plans": plans}))
    monkeypatch.setattr(site, "bundle", lambda _name: classic)
    with pytest.raises(DoesNotApplyError, match="compiles nothing"):
        kernels.compiled(site, SILENT)


def test_a_check_that_does_not_hold_is_named(site: DrySite, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Check(
        name="unet_cfg",
        compared="PyTorch, fp32, cpu",
        relative_error=0.5,
        largest_difference=1,
        where="[0, 3]",
        tolerance=1e-4,
    )
    monkeypatch.setattr(bundles, "verify_bundle", lambda *_: [wrong])
    with pytest.raises(
        DoesNotHoldError, match=r"unet_cfg against PyTorch, fp32, cpu: 5\.0e-01 at \[0, 3\], where 1\.0e"
    ):
        bundles.verify(site, SILENT)


def test_bad_findings_of_the_doctor_are_a_failure(site: DrySite, monkeypatch: pytest.MonkeyPatch) -> None:
    def finding(state: Found, subject: str) -> Finding:
        return Finding(subject=subject, state=state, found=f"{subject} at /home/jane", remedy="mend it")

    found = [finding(Found.OK, "GPU"), finding(Found.NOTE, "kernel cache")]
    monkeypatch.setattr(look, "examine", lambda *_: Examination(findings=tuple(found), can_run=None))
    texts = [item["found"] for item in look.doctor(site, SILENT)["findings"]]
    assert texts == ["GPU at /home/jane", ""]
    found.append(finding(Found.BAD, "TensorRT (rtx)"))
    with pytest.raises(DoesNotHoldError, match="mend it"):
        look.doctor(site, SILENT)


def test_small_videos_are_timed_with_and_without_graphs(site: DrySite) -> None:
    figures = speed.bench(site, SILENT)
    assert figures["cuda_graphs"].keys() == figures["no_cuda_graphs"].keys() == {"cut_3_s", "cut_4_s"}


def test_full_size_tells_the_memory_beside_the_computed_one(site: DrySite, config: ProofConfig) -> None:
    figures = speed.full_video(site, config, SILENT)
    assert figures["residency"] == "resident"
    assert figures["computed_device_bytes"] > 5 * 5000  # the stand-in's weights
    assert figures["peak_device_bytes"] is None
    assert min(figures[name] for name in ("open_s", "first_video_s", "second_video_s")) > 0


@pytest.mark.parametrize(("missing", "holds"), [("stock-compiled", True), ("vcut-tensorrt/paper/c17", False)])
def test_a_contender_of_ours_that_is_left_out_is_a_failure(
    missing: str, holds: bool, site: DrySite, config: ProofConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {
        "work": {"model": "tiny", "steps": 4},
        "ceiling": {"best": {"tflops": 0.2}},
        "contenders": [contender("stock", None, 8.0, 0.0)],
        "left_out": [{"name": missing, "reason": "no room"}],
    }
    words: list[list[str]] = []

    def ran(command: list[str], **_options: Any) -> Any:
        words.append(command)
        return SimpleNamespace(returncode=0, stdout=f"first\n{json.dumps(answer)}\n")

    monkeypatch.setattr(speed.subprocess, "run", ran)
    if holds:
        figures = speed.latency(site, config, SILENT)
        assert figures["left_out"] == [f"{missing}: no room"]
        assert figures["contenders"][0]["computed_25_steps_s"] == 25 * 2 + 3
    else:
        with pytest.raises(DoesNotHoldError, match="no room"):
            speed.latency(site, config, SILENT)
    assert words[0][-5:] == ["--steps", "4", "--repeats", "1", "--json"]


def test_every_stage_is_run_and_says_what_a_dry_run_does_not_prove(site: DrySite, config: ProofConfig) -> None:
    names = {entry.name for entry in STAGES}
    assert NOT_PROVED.keys() == names
    with stage._stages(config) as (stages, doubts_of):
        assert stages.keys() == names
        assert "40 were made" in " ".join(doubts_of("steps"))
    assert "4 were made" in " ".join(not_proved("steps", site))


def test_whatever_a_stage_raises_is_its_outcome(config: ProofConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for raised, state, reason in (
        (EngineError("no plans. Build them"), State.FAILED, "no plans. Build them"),
        (
            RuntimeError("CUDA error: an illegal access\nand more"),
            State.FAILED,
            "RuntimeError: CUDA error: an illegal access",
        ),
        (DoesNotApplyError("classic"), State.SKIPPED, "classic"),
    ):

        def fails(*_: object, error: Exception = raised) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(videos, "graphs", fails)
        outcome = stage.run_stage("graphs", config)
        assert (outcome.state, outcome.reason) == (state, reason)
        assert outcome.not_proved
    with pytest.raises(ConfigError, match="there is no stage 'nonsense'; there are machine, doctor"):
        stage.run_stage("nonsense", config)
