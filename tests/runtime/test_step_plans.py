"""Plans through whole videos: solvers, shallow steps and residuals on PyTorch and ONNX Runtime; what is left behind.

`formula` engines show which tensors a step is given; the rest runs the nano UNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import NANO_VIDEO, exported
from tests.models import checkpoint
from tests.runtime.test_denoiser import COLUMNS, CPU, SHAPE, FormulaEngine, conditioning, first_latents
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import ConfigError
from vcut_trt.measure.samples import sample_images
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.runtime.denoiser import StepEngines
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.graphs import graph_specs
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut, StepPlan
from vcut_trt.spec.steps import STEP_KINDS, DeepFeature, kinds_for
from vcut_trt.spec.video import VideoSpec

SIGMAS = (700.0, 54.5, 15.886, 4.248, 0.981, 0.173, 0.0)
KINDS = kinds_for(guidance=True, step_cache=True)
GUIDANCE = torch.tensor([1.0, 2.0, 3.0])


# What each step is given.


class Formulas:
    """All four kinds: full steps leave their latents' mean in the feature, each half with a mark of its own."""

    def __init__(self) -> None:
        self.read: list[tuple[str, float, float, float, float]] = []  # kind, history, residual, feature; scalar r
        workspace = Workspace(CPU)
        specs = graph_specs(
            VideoSpec(videos=2, frames=3, height=64, width=64, decode_chunk=1),
            Precision.FP32,
            COLUMNS,
            KINDS,
            DeepFeature(split=0, channels=16, downscale=1),
        )
        self.engines = {
            kind.graph: FormulaEngine(specs[kind.graph], workspace, self._formula(kind.name))
            for kind in STEP_KINDS.values()
        }
        self.step = 0

    def _formula(self, kind: str) -> Any:
        guided, shallow = kind.startswith("guided"), kind.endswith("shallow")

        def run(latents: Any, history: Any, scalars: Any, **given: Any) -> dict[str, Any]:
            self.step += 1
            feature = given["deep_feature"] if shallow else np.zeros((0,))
            assert not feature.size or len(feature) == (12 if guided else 6)
            residual = np.zeros(1) if guided else given["guidance_residual"]
            self.read.append(
                (
                    kind,
                    *(float(tensor.flat[0]) if tensor.size else 0.0 for tensor in (history, residual, feature)),
                    float(scalars[6]),
                )
            )
            made = {"next_latents": latents, "next_history": np.full_like(history, 10.0 * self.step)}
            if guided:
                made["guidance_residual"] = np.full_like(latents, 100.0 * self.step)
            if not shallow:
                rows = np.full((12, 16, 8, 8), self.step + 0.5, dtype=np.float32)  # the conditional half, the second
                rows[:6] = self.step
                made["deep_feature"] = rows if guided else rows[6:]
            return made

        return run


def follow(formulas: Formulas, plan: StepPlan, engines: StepEngines | None = None) -> StepEngines:
    engines = engines or StepEngines(formulas.engines)
    noise = torch.zeros(plan.num_inference_steps, *SHAPE) if plan.solver.is_stochastic else None
    if noise is not None:
        noise += torch.arange(plan.num_inference_steps).view(-1, 1, 1, 1, 1, 1) + 0.25
    denoiser = engines.denoiser(conditioning(), plan, GUIDANCE, noise)
    latents = first_latents()
    for step in range(1, plan.num_inference_steps + 1):
        latents = denoiser(latents, step)
    return engines


def test_a_shallow_step_reads_what_the_last_full_one_left_and_a_single_one_its_conditional_half() -> None:
    formulas = Formulas()
    follow(formulas, StepPlan(sigmas=SIGMAS, cut_step=4, shallow_steps=(2, 4, 6)))
    kinds = [kind for kind, *_ in formulas.read]
    assert kinds == ["guided", "guided_shallow", "guided", "single_shallow", "single", "single_shallow"]
    features = {step: feature for step, (_, _, _, feature, _) in enumerate(formulas.read, start=1)}
    assert features[2] == 1, "both halves, the unconditional one first"
    assert features[4] == 3.5, "the conditional half of step 3, which was guided"
    assert features[6] == 5.5, "of step 5, which was single and wrote where single steps read"


def test_the_history_goes_from_step_to_step_and_no_video_sees_another_ones() -> None:
    formulas = Formulas()
    plan = StepPlan(solver=Solver.AB2, sigmas=SIGMAS, cut_step=4, shallow_steps=(2,), after_cut=AfterCut.RESIDUAL)
    engines = follow(formulas, plan)
    assert [history for _, history, *_ in formulas.read] == [0, 10, 20, 30, 40, 50]
    assert [(residual, r) for _, _, residual, _, r in formulas.read] == [(0, 0)] * 3 + [(300, 1)] * 3
    formulas.read.clear()
    follow(formulas, StepPlan(sigmas=SIGMAS, cut_step=1), engines)
    assert formulas.read[0][1:3] == (0, 0), "neither the history nor the residual of the video before"


def test_after_the_cut_the_residual_takes_the_place_of_the_average() -> None:
    given: dict[AfterCut, Any] = {}
    for after_cut in AfterCut:
        formulas = Formulas()
        engines = follow(formulas, StepPlan(sigmas=SIGMAS, cut_step=4, after_cut=after_cut))
        single = next(kind.graph for kind in STEP_KINDS.values() if kind.name == "single")
        given[after_cut] = formulas.engines[single].bound[0]["image_projection"].clone()
        del engines
    projection = conditioning().image_projection
    assert torch.equal(given[AfterCut.AVERAGE], (projection[:2] + projection[2:]) / 2)
    assert torch.equal(given[AfterCut.RESIDUAL], projection[2:])


def test_a_stochastic_solver_finds_fresh_noise_in_the_history() -> None:
    formulas = Formulas()
    follow(formulas, StepPlan(solver=Solver.CONSISTENCY, sigmas=SIGMAS, cut_step=4))
    assert [history for _, history, *_ in formulas.read] == [0.25, 1.25, 2.25, 3.25, 4.25, 5.25]


def test_a_callbacks_latents_keep_the_history(nano: VCutPipeline) -> None:
    """A callback that gives back what it got changes nothing, whichever buffer the history lies in."""
    plan = StepPlan(solver=Solver.AB2, sigmas=SIGMAS, cut_step=4)

    def copied(_pipeline: Any, _index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"].clone()}

    assert torch.equal(latents_of(nano, plan, callback_on_step_end=copied), latents_of(nano, plan))


def test_no_address_moves(nano: VCutPipeline) -> None:
    formulas = Formulas()
    engines = follow(formulas, StepPlan(solver=Solver.AB2, sigmas=SIGMAS, cut_step=4, shallow_steps=(3,)))
    bound = {name: [dict(tensors) for tensors in engine.bound] for name, engine in formulas.engines.items()}
    follow(formulas, StepPlan(sigmas=SIGMAS, cut_step=2, shallow_steps=(2,)), engines)
    for name, engine in formulas.engines.items():
        assert len(engine.bound) == 2, "once for each direction"
        for before, after in zip(bound[name], engine.bound, strict=True):
            assert {key: tensor.data_ptr() for key, tensor in before.items()} == {
                key: tensor.data_ptr() for key, tensor in after.items()
            }


# Whole videos.


@pytest.fixture(scope="module")
def nano() -> Iterator[VCutPipeline]:
    with pytorch(step_cache=0) as pipeline:
        yield pipeline


def pytorch(**options: Any) -> VCutPipeline:
    config = PretrainedConfig(video=NANO_VIDEO, precision=Precision.FP32, **options)
    return pipeline_of(checkpoint(), Workspace(CPU), config)


def latents_of(pipeline: VCutPipeline, plan: StepPlan | None = None, **arguments: Any) -> Tensor:
    latents = pipeline(
        sample_images(1)[0],
        step_plan=plan,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        return_dict=False,
        **arguments,
    )
    assert isinstance(latents, Tensor)
    return latents


def relative(came: Tensor, wanted: Tensor) -> float:
    return float((came - wanted).norm() / wanted.norm())


def test_a_plain_plan_is_the_call_with_its_numbers(nano: VCutPipeline) -> None:
    plan = StepPlan(sigmas=SIGMAS, cut_step=4)
    assert torch.equal(latents_of(nano, plan), latents_of(nano, sigmas=list(SIGMAS), cut_step=4))
    with pytest.raises(ConfigError, match="a step plan holds the sigmas and the cut step; give either it or them"):
        latents_of(nano, plan, cut_step=4)


def test_a_step_cache_changes_no_full_step(nano: VCutPipeline) -> None:
    plan = StepPlan(sigmas=SIGMAS, cut_step=4)
    with pytorch() as without:
        assert torch.equal(latents_of(without, plan), latents_of(nano, plan))
        with pytest.raises(ConfigError, match="shallow steps, and the bundle none: export it with --step-cache 0"):
            latents_of(without, StepPlan(sigmas=SIGMAS, cut_step=4, shallow_steps=(2,)))


@pytest.mark.parametrize("solver", Solver)
def test_where_nothing_is_guided_a_plan_is_followed_all_the_same(nano: VCutPipeline, solver: Solver) -> None:
    plan = StepPlan(solver=solver, sigmas=SIGMAS, cut_step=4, shallow_steps=(3,), after_cut=AfterCut.RESIDUAL)
    unguided = StepPlan(solver=solver, sigmas=SIGMAS, cut_step=1, shallow_steps=(3,), after_cut=AfterCut.RESIDUAL)
    free = {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0}
    came = latents_of(nano, plan, **free)
    assert torch.equal(came, latents_of(nano, unguided, **free))
    assert relative(came, latents_of(nano, plan)) > 1e-3


def test_a_video_after_a_spoilt_one_is_as_if_it_were_the_first(nano: VCutPipeline) -> None:
    """NaN in history, residual and feature must not survive: 0 · NaN is NaN."""
    plan = StepPlan(solver=Solver.AB2, sigmas=SIGMAS, cut_step=4, shallow_steps=(2, 5), after_cut=AfterCut.RESIDUAL)
    wanted = latents_of(nano, plan)

    def spoil(_pipeline: Any, _index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.full_like(tensors["latents"], torch.nan)}

    with pytest.raises(Exception, match="NaN or infinite"):
        latents_of(nano, plan, callback_on_step_end=spoil)
    assert torch.equal(latents_of(nano, plan), wanted)
    assert bool(latents_of(nano, StepPlan(sigmas=SIGMAS, cut_step=4)).isfinite().all())


@pytest.fixture(scope="module", params=[0, 3])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VCutPipeline, ...]]:
    """The same on ONNX Runtime and on PyTorch, split at 0 or at 3."""
    bundle = cached_bundle(tmp_path_factory, request.param)
    with VCutPipeline.from_bundle(bundle, device="cpu") as exported_one, pytorch(step_cache=request.param) as reference:
        yield exported_one, reference


def cached_bundle(factory: pytest.TempPathFactory, split: int) -> Bundle:
    return exported(
        factory, f"nano-cache-{split}", cross_attention=CrossAttention.EXACT, step_kinds=KINDS, step_cache=split
    )


@pytest.mark.parametrize("after_cut", AfterCut)
@pytest.mark.parametrize("solver", Solver)
def test_every_plan_is_the_same_through_onnx_runtime(
    both: tuple[VCutPipeline, VCutPipeline], solver: Solver, after_cut: AfterCut
) -> None:
    plan = StepPlan(solver=solver, sigmas=SIGMAS, cut_step=4, shallow_steps=(2, 5), after_cut=after_cut)
    came, wanted = (latents_of(pipeline, plan) for pipeline in both)
    assert relative(came, wanted) < 1e-4
    assert relative(came, latents_of(both[0], StepPlan(solver=solver, sigmas=SIGMAS, cut_step=4))) > 1e-3


def test_all_kinds_share_one_file_of_weights(tmp_path_factory: pytest.TempPathFactory, nano_bundle: Bundle) -> None:
    bundle = cached_bundle(tmp_path_factory, 0)
    assert bundle.manifest.step_cache == 0
    assert [str(name) for name in bundle.manifest.step_graphs] == [
        *("unet_cfg", "unet_single", "unet_cfg_shallow", "unet_single_shallow")
    ]
    weights = {bundle.manifest.graphs[name].weights for name in bundle.manifest.step_graphs}
    plain = nano_bundle.manifest.graphs[nano_bundle.manifest.step_graphs[0]].weights
    assert len(weights) == 1
    assert weights.pop().nbytes < 1.02 * plain.nbytes
