"""The warm-up: what is run how often before the first video, what is told, and what happens where room is lacking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.runtime.test_denoiser import FormulaEngine
from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.base import Engine
from vcut_trt.engines.opener import BaseOpener, EngineOptions
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime import generate, warm_up
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.generate import GenerateConfig, generate_videos
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.warm_up import compile_resident, run_all, warmed_up
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import Layout, Residency, layouts
from vcut_trt.spec.warm_up import WarmUp
from vcut_trt.work.progress import Advance, Silent

STEPS = ("unet_cfg", "unet_single")


class NotedOpener(BaseOpener):
    """Opens engines that compute nothing, and notes their runs."""

    def __init__(self, bundle: Bundle, layout: Layout, *, cuda_graphs: bool, compiles: bool = False) -> None:
        super().__init__(Workspace(torch.device("cpu")), layout, cuda_graphs=cuda_graphs)
        self._bundle = bundle
        self._compiles = compiles
        self.runs: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.are_finite = True
        self.kept = 0
        self.full_at = ""

    @property
    def has_compiled(self) -> bool:
        return self._compiles

    def open(self, name: GraphName) -> Engine:
        self.opened[name] += 1

        def run(**inputs: Any) -> Any:
            if self.full_at == name and self.layout.residency is Residency.RESIDENT:
                raise DeviceMemoryError("no room for the activations")
            self.runs[name] += 1
            self.are_finite = self.are_finite and all(np.isfinite(array).all() for array in inputs.values())
            return 0.0

        return FormulaEngine(graph_spec(self._bundle, name), self.workspace, run)

    def keep_compiled(self) -> None:
        self.kept += 1


def opened(bundle: Bundle, *, staged: bool = False, **options: Any) -> tuple[EngineSet, NotedOpener]:
    residency = Residency.STAGED if staged else Residency.AUTO
    layout = layouts(residency, tuple(bundle.manifest.graphs))[0]
    opener = NotedOpener(bundle, layout, **{"cuda_graphs": False, **options})
    return EngineSet(opener, residency), opener


def expected(bundle: Bundle, rounds: int) -> dict[str, int]:
    return {name.value: rounds * (2 if name in STEPS else 1) for name in bundle.manifest.graphs}


def nobody(_what: str, _done: int, _total: int) -> None:
    """Nobody listens."""


@pytest.mark.parametrize(("cuda_graphs", "rounds"), [(False, 1), (True, 2)])
def test_two_steps_of_each_kind_and_once_all_else_and_again_where_graphs_are_captured(
    nano_bundle: Bundle, cuda_graphs: bool, rounds: int
) -> None:
    engines, opener = opened(nano_bundle, cuda_graphs=cuda_graphs)
    told: list[tuple[str, int, int]] = []
    run_all(engines, lambda *what: told.append(what))
    assert opener.runs == expected(nano_bundle, rounds)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {total for *_, total in told} == {rounds * len(nano_bundle.manifest.graphs)}
    assert {what for what, *_ in told} >= {name.value for name in nano_bundle.manifest.graphs}
    assert told[0] == ("image encoders", 0, told[0][2]), "it is told before anything is bound"
    engines.close()


def test_a_warm_up_runs_on_numbers_and_not_on_whatever_lies_in_memory(nano_bundle: Bundle) -> None:
    engines, opener = opened(nano_bundle)
    run_all(engines, nobody)
    assert opener.runs
    assert opener.are_finite
    engines.close()


def test_what_was_compiled_is_kept_after_the_warm_up(nano_bundle: Bundle) -> None:
    engines, opener = opened(nano_bundle)
    run_all(engines, nobody)
    assert opener.kept == 4, "after each of the three stages was bound, and after all have run"
    engines.close()


def test_staged_engines_are_tried_too(nano_bundle: Bundle) -> None:
    engines, opener = opened(nano_bundle, staged=True)
    run_all(engines, nobody)
    assert opener.runs == expected(nano_bundle, 1)
    engines.close()


def test_without_room_for_the_first_run_it_goes_on_with_fewer_engines(
    nano_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    engines, opener = opened(nano_bundle)
    opener.full_at = GraphName.UNET_SINGLE
    run_all(engines, nobody)
    assert engines.layout.residency is Residency.STAGED
    assert opener.runs[GraphName.VAE_DECODER] == 1
    assert "Going on with fewer engines" in caplog.text
    engines.close()


def test_for_one_video_everything_is_bound_and_run_only_if_kernels_were_compiled(nano_bundle: Bundle) -> None:
    for compiles in (False, True):
        engines, opener = opened(nano_bundle, cuda_graphs=True, compiles=compiles)
        compile_resident(engines, nobody)
        assert opener.runs == (expected(nano_bundle, 1) if compiles else {})
        assert len(engines._made) == 3
        engines.close()


def test_for_one_video_engines_that_come_and_go_are_not_loaded_an_extra_time(nano_bundle: Bundle) -> None:
    engines, opener = opened(nano_bundle, staged=True, compiles=True)
    compile_resident(engines, nobody)
    assert not opener.opened
    engines.close()


def test_a_pipeline_whose_warm_up_fails_is_closed(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_engines: EngineSet, _tell: object) -> None:
        raise EngineError("TensorRT could not run unet_cfg")

    monkeypatch.setattr(warm_up, "run_all", fail)
    pipeline = VCutPipeline.from_bundle(nano_bundle, device="cpu")
    with pytest.raises(EngineError, match="could not run"):
        warmed_up(pipeline, WarmUp.ALWAYS)
    assert pipeline._engines._is_closed


@pytest.mark.parametrize(
    ("asked", "device", "wanted"),
    [("auto", "cpu", False), ("auto", "cuda", True), ("always", "cpu", True), ("never", "cuda", False)],
)
def test_a_server_warms_up_on_a_gpu_or_where_it_is_told_to(asked: str, device: str, wanted: bool) -> None:
    assert WarmUp(asked).is_wanted(device) is wanted


def test_a_video_is_the_same_after_a_warm_up(nano_bundle: Bundle) -> None:
    videos = []
    for asked in WarmUp:
        with warmed_up(VCutPipeline.from_bundle(nano_bundle, device="cpu"), asked) as pipeline:
            noise = torch.Generator().manual_seed(0)
            made = pipeline(sample_images(1), num_inference_steps=3, cut_step=2, generator=noise, output_type="pt")
            videos.append(made.frames)
    assert all(torch.equal(video, videos[0]) for video in videos)


def test_generate_shows_the_warm_up_as_a_stage_of_its_own(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stages(Silent):
        def __init__(self) -> None:
            self.titles: list[str] = []

        @contextmanager
        def stage(self, title: str) -> Iterator[Advance]:
            self.titles.append(title)
            yield lambda _done, _total: None

    compiled: list[VCutPipeline] = []
    monkeypatch.setattr(generate, "compile_for_one", lambda pipeline, _tell: compiled.append(pipeline))
    picture = tmp_path / "picture.png"
    sample_images(1)[0].save(picture)
    settings = ClipSettings(num_inference_steps=2, cut_step=2)
    config = GenerateConfig(image=picture, output=tmp_path / "clip.mp4", settings=settings)
    choice = choose_backend(nano_bundle, Backend.AUTO, "cpu")
    for on_gpu in (False, True):
        monkeypatch.setattr(WarmUp, "is_wanted", lambda _wish, _device, on_gpu=on_gpu: on_gpu)
        stages = Stages()
        generate_videos(nano_bundle, config, choice, EngineOptions(), stages)
        assert ("warming up" in stages.titles) is on_gpu
        assert stages.titles[-1].startswith("denoise")
    assert len(compiled) == 1
