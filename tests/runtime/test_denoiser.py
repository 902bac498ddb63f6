"""The denoising loop on engines of known arithmetic: which engine, which sigmas, which tensors, at which addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vcut_trt.engines.base import BaseEngine
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.workspace import ALIGNMENT_BYTES, Workspace
from vcut_trt.runtime.conditioning import Conditioning
from vcut_trt.runtime.denoiser import Denoiser, StepEngines
from vcut_trt.runtime.guard import FiniteGuard
from vcut_trt.spec.graphs import graph_specs
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.step_plan import StepPlan
from vcut_trt.spec.video import VideoSpec

CPU = torch.device("cpu")
FRAMES, COLUMNS = 3, 5
SHAPE = (2, FRAMES, 4, 8, 8)  # two videos
SPECS = graph_specs(
    VideoSpec(videos=2, frames=FRAMES, height=64, width=64, decode_chunk=1), Precision.FP32, projection_width=COLUMNS
)

Formula = Callable[..., Any]


class FormulaEngine(BaseEngine):
    """Computes its first output, or all by name, with NumPy: torch's operations are those of the code under test."""

    def __init__(self, spec: GraphSpec, workspace: Workspace, formula: Formula) -> None:
        super().__init__(spec, workspace)
        self.bound: list[dict[str, Tensor]] = []
        self._formula = formula

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        self.bound.append(tensors)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        outputs = {spec.name: arrays[spec.name] for spec in self.outputs}
        inputs = {spec.name: arrays[spec.name] for spec in self.inputs}

        def run() -> None:
            made = self._formula(**inputs)
            for name, array in (made if isinstance(made, dict) else {self.outputs[0].name: made}).items():
                outputs[name][...] = array

        return run

    def _free(self) -> None:
        pass


class Operations(TorchDispatchMode):
    """Writes down every torch operation, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Unets:
    """Both UNet engines; what each run was given is kept."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, float, float]] = []  # engine, sigma, sigma_next
        self.inputs: list[dict[str, np.ndarray]] = []
        workspace = Workspace(CPU)
        self.engines = {
            name: FormulaEngine(SPECS[name], workspace, self._formula(name.value))
            for name in (GraphName.UNET_CFG, GraphName.UNET_SINGLE)
        }

    def _formula(self, engine: str) -> Formula:
        def step(latents: Any, history: Any, scalars: Any, **constants: Any) -> dict[str, Any]:
            sigma, a = scalars[:2]
            self.runs.append((engine, float(sigma), float(a * sigma)))  # Euler's a is σ'/σ
            self.inputs.append({name: array.copy() for name, array in {**constants, "latents": latents}.items()})
            factor = 0.5 if engine == "unet_cfg" else -1.0
            return {"next_latents": factor * latents + sigma - 0.25 * a * sigma, "next_history": history}

        return step


@pytest.fixture
def unets() -> Unets:
    return Unets()


def conditioning(seed: int = 0) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        image_latents=torch.rand(2, 4, 8, 8, generator=generator),
        image_projection=torch.randint(-8, 8, (4, 1, COLUMNS), generator=generator).float(),
        added_time_ids=torch.rand(2, 3, generator=generator),
    )


def first_latents(seed: int = 1) -> Tensor:
    """Whole numbers: the formulas are then exact in fp32."""
    return torch.randint(-64, 64, SHAPE, generator=torch.Generator().manual_seed(seed)).float()


SIGMAS = torch.tensor([64.0, 32.0, 8.0, 4.0, 1.0, 0.0])
STEPS = len(SIGMAS) - 1
GUIDANCE = torch.tensor([1.0, 2.0, 3.0])


def denoiser_of(
    engines: StepEngines, cut_step: int, guidance: Tensor | None = GUIDANCE, seed: int = 0, sigmas: Tensor = SIGMAS
) -> Denoiser:
    plan = StepPlan(sigmas=tuple(sigmas.tolist()), cut_step=1 if guidance is None else cut_step)
    return engines.denoiser(conditioning(seed), plan, guidance)


def run_all(denoiser: Denoiser, latents: Tensor, steps: int = STEPS) -> Tensor:
    for step in range(1, steps + 1):
        latents = denoiser(latents, step)
    return latents


def expected_latents(latents: Tensor, guided_steps: int) -> np.ndarray:
    """What all steps make, in float64."""
    made = latents.numpy().astype(np.float64)
    for index, (sigma, sigma_next) in enumerate([(64, 32), (32, 8), (8, 4), (4, 1), (1, 0)]):
        made = made * (0.5 if index < guided_steps else -1) + sigma - sigma_next / 4
    return made


@pytest.mark.parametrize("cut_step", range(1, STEPS + 2))
def test_every_step_runs_on_the_engine_of_its_stage_with_its_own_sigmas(unets: Unets, cut_step: int) -> None:
    latents = first_latents()
    made = run_all(denoiser_of(StepEngines(unets.engines), cut_step), latents)
    pairs = [(64.0, 32.0), (32.0, 8.0), (8.0, 4.0), (4.0, 1.0), (1.0, 0.0)]
    assert unets.runs == [
        ("unet_cfg" if step < cut_step else "unet_single", *pair) for step, pair in enumerate(pairs, start=1)
    ]
    np.testing.assert_array_equal(made.numpy(), expected_latents(latents, cut_step - 1))


def test_each_engine_is_given_the_projection_of_its_stage(unets: Unets) -> None:
    video = conditioning()
    run_all(denoiser_of(StepEngines(unets.engines), cut_step=3), first_latents())
    guided, single = unets.inputs[:2], unets.inputs[2:]
    without, with_ = video.image_projection[:2], video.image_projection[2:]
    for given in guided:
        np.testing.assert_array_equal(given["image_projection"], video.image_projection)
        np.testing.assert_array_equal(given["guidance_scale"], [1.0, 2.0, 3.0])
    for given in single:
        np.testing.assert_array_equal(given["image_projection"], (without + with_) / 2)
        assert "guidance_scale" not in given
    for given in unets.inputs:
        np.testing.assert_array_equal(given["image_latents"], video.image_latents)
        np.testing.assert_array_equal(given["added_time_ids"], video.added_time_ids)


@pytest.mark.parametrize("cut_step", [1, 3, STEPS + 1])
def test_without_guidance_every_step_is_single_and_conditional(unets: Unets, cut_step: int) -> None:
    latents = first_latents()
    made = run_all(denoiser_of(StepEngines(unets.engines), cut_step, guidance=None), latents)
    assert [run[0] for run in unets.runs] == ["unet_single"] * STEPS
    for given in unets.inputs:
        np.testing.assert_array_equal(given["image_projection"], conditioning().image_projection[2:])
    np.testing.assert_array_equal(made.numpy(), expected_latents(latents, 0))


def test_the_latents_that_come_in_are_copied_and_left_alone(unets: Unets) -> None:
    denoiser = denoiser_of(StepEngines(unets.engines), cut_step=3)
    latents = first_latents()
    kept = latents.clone()
    made = run_all(denoiser, latents)
    assert torch.equal(latents, kept)
    assert made.untyped_storage().data_ptr() != latents.untyped_storage().data_ptr()
    bound = {tensor.data_ptr() for engine in unets.engines.values() for b in engine.bound for tensor in b.values()}
    assert latents.data_ptr() not in bound


def test_steps_go_to_and_fro_between_two_tensors_whose_addresses_never_change(unets: Unets) -> None:
    engines = StepEngines(unets.engines)
    addresses = []
    for seed in (0, 1):
        denoiser = denoiser_of(engines, cut_step=3, seed=seed)
        latents = first_latents(seed)
        for step in range(1, STEPS + 1):
            latents = denoiser(latents, step)
            addresses.append(latents.data_ptr())
    a, b = addresses[1], addresses[0]
    assert a != b
    assert addresses == [b, a, b, a, b] * 2
    for engine in unets.engines.values():
        assert [(t["latents"].data_ptr(), t["next_latents"].data_ptr()) for t in engine.bound] == [(a, b), (b, a)]


def test_what_a_step_returns_holds_until_the_step_after_the_next(unets: Unets) -> None:
    denoiser = denoiser_of(StepEngines(unets.engines), cut_step=3)
    first = denoiser(first_latents(), 1)
    kept = first.clone()
    second = denoiser(first, 2)
    assert torch.equal(first, kept)
    denoiser(second, 3)
    assert not torch.equal(first, kept)


@pytest.mark.parametrize("at_step", [2, 3])  # before it, the latents lie in one tensor, or in the other
def test_other_latents_between_two_steps_are_taken_up(unets: Unets, at_step: int) -> None:
    denoiser = denoiser_of(StepEngines(unets.engines), cut_step=1)
    latents, other = first_latents(), first_latents(seed=9)
    for step in range(1, at_step):
        latents = denoiser(latents, step)
    made = denoiser(other, at_step)
    sigma, sigma_next = float(SIGMAS[at_step - 1]), float(SIGMAS[at_step])
    assert torch.equal(made, -other + sigma - sigma_next / 4)
    after = denoiser(made, at_step + 1)
    sigma, sigma_next = float(SIGMAS[at_step]), float(SIGMAS[at_step + 1])
    assert torch.equal(after, -made + sigma - sigma_next / 4)


def test_a_second_video_is_as_if_it_were_the_first(unets: Unets) -> None:
    engines = StepEngines(unets.engines)
    run_all(denoiser_of(engines, cut_step=STEPS + 1, seed=5), first_latents(seed=5))
    unets.inputs.clear()
    came = run_all(denoiser_of(engines, cut_step=2, seed=6), first_latents(seed=6)).clone()
    alone = Unets()
    expected = run_all(denoiser_of(StepEngines(alone.engines), cut_step=2, seed=6), first_latents(seed=6))
    assert torch.equal(came, expected)
    for given, wanted in zip(unets.inputs, alone.inputs, strict=True):
        assert given.keys() == wanted.keys()
        for name, array in given.items():
            np.testing.assert_array_equal(array, wanted[name])


def test_a_second_video_may_have_other_sigmas_guidance_and_number_of_steps(unets: Unets) -> None:
    engines = StepEngines(unets.engines)
    run_all(denoiser_of(engines, cut_step=2), first_latents())
    unets.runs.clear()
    unets.inputs.clear()
    sigmas = torch.tensor([8.0, 2.0, 0.0])
    run_all(denoiser_of(engines, 3, torch.tensor([4.0, 5.0, 6.0]), sigmas=sigmas), first_latents(), steps=2)
    assert unets.runs == [("unet_cfg", 8.0, 2.0), ("unet_cfg", 2.0, 0.0)]
    np.testing.assert_array_equal(unets.inputs[0]["guidance_scale"], [4.0, 5.0, 6.0])


def test_guidance_comes_back_after_a_video_without_it(unets: Unets) -> None:
    engines = StepEngines(unets.engines)
    run_all(denoiser_of(engines, cut_step=3, guidance=None), first_latents())
    unets.inputs.clear()
    run_all(denoiser_of(engines, cut_step=3), first_latents())
    projection = conditioning().image_projection
    np.testing.assert_array_equal(unets.inputs[-1]["image_projection"], (projection[:2] + projection[2:]) / 2)


def test_what_both_engines_take_alike_is_bound_to_the_same_tensor(unets: Unets) -> None:
    StepEngines(unets.engines)
    guided, single = (unets.engines[name].bound[0] for name in (GraphName.UNET_CFG, GraphName.UNET_SINGLE))
    shared = {name for name in single if single[name].data_ptr() == guided[name].data_ptr()}
    assert shared == {
        *("latents", "next_latents", "history", "next_history", "guidance_residual"),
        *("scalars", "image_latents", "added_time_ids"),
    }
    for tensors in (guided, single):
        assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
        assert all(tensor.data_ptr() % ALIGNMENT_BYTES == 0 for tensor in tensors.values())


def test_a_step_with_its_guard_allocates_nothing(unets: Unets) -> None:
    plan = StepPlan(sigmas=tuple(SIGMAS.tolist()), cut_step=3)
    denoiser = denoiser_of(StepEngines(unets.engines), plan.cut_step)
    guard = FiniteGuard(plan, CPU)
    latents = denoiser(first_latents(), 1)
    with torch.inference_mode(), Operations() as operations:
        for step in range(2, STEPS + 1):
            latents = denoiser(latents, step)
            guard.note_step(step, latents)
    # the scalars into their slots; the sum into its own
    assert operations.names == ["aten.copy_.default", "aten.sum.IntList_out"] * (STEPS - 1)


def test_what_allocates_would_be_seen() -> None:
    with torch.inference_mode(), Operations() as operations:
        first_latents().clone().sum()
    assert {"aten.clone.default", "aten.sum.default"} <= set(operations.names)
