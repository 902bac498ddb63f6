"""Solvers on data whose denoised latents are known: orders of convergence, and sigmas that none can go through."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_trt.errors import ConfigError
from vcut_trt.spec.solvers import Solver, Update

TAU = 0.5  # the data's standard deviation


def grid(steps: int, highest: float = 80.0, lowest: float = 0.02, *, ends_at_zero: bool = False) -> list[float]:
    """Karras' grid without its end: there every solver takes Euler's step, which would hide its order."""
    ends = (highest ** (1 / 7), lowest ** (1 / 7))
    sigmas = [(ends[0] + share / steps * (ends[1] - ends[0])) ** 7 for share in range(steps + 1)]
    return [*sigmas, 0.0] if ends_at_zero else sigmas


def follow(solver: Solver, sigmas: list[float], x: float = 3.0) -> float:
    """x at the last sigma, of Gaussian data: E[x₀ | x] = τ² x / (σ² + τ²)."""
    history = 0.0
    for sigma, update in zip(sigmas, solver.updates(sigmas), strict=False):
        denoised = TAU**2 * x / (sigma**2 + TAU**2)
        x, history = (
            update.a * x + update.b * denoised + update.c * history,
            update.p * x + update.q * denoised,
        )
    return x


def solution(sigmas: list[float], x: float = 3.0) -> float:
    return x * math.sqrt((sigmas[-1] ** 2 + TAU**2) / (sigmas[0] ** 2 + TAU**2))


@pytest.mark.parametrize(("solver", "order"), [(Solver.EULER, 1), (Solver.AB2, 2), (Solver.DPMPP_2M, 2)])
def test_a_solver_converges_with_its_order(solver: Solver, order: int) -> None:
    errors = []
    for steps in (80, 160, 320, 640):
        sigmas = grid(steps)
        errors.append(abs(follow(solver, sigmas) - solution(sigmas)))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.12), slopes


@pytest.mark.parametrize("solver", Solver)
def test_a_solver_ends_with_the_denoised_latents(solver: Solver) -> None:
    last = solver.updates([9.0, 3.0, 1.0, 0.0])[-1]
    assert (last.a, last.b, last.c) == (0, 1, 0)


@pytest.mark.parametrize("solver", [Solver.EULER, Solver.AB2, Solver.DPMPP_2M])
def test_what_is_clean_already_stays(solver: Solver) -> None:
    """x = D at every step: the weights of a step sum to 1, over what the history stands for too."""
    x, history = 2.0, 0.0
    for update in solver.updates(grid(7, ends_at_zero=True)):
        x, history = update.a * x + update.b * x + update.c * history, update.p * x + update.q * x
        assert x == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("solver", [Solver.EULER, Solver.AB2, Solver.DPMPP_2M])
def test_the_first_step_is_eulers(solver: Solver) -> None:
    first = solver.updates([8.0, 2.0, 1.0])[0]
    assert (first.a, first.b, first.c) == (0.25, 0.75, 0)


def test_dpm_solver_is_diffusers_own() -> None:
    """DPMSolverMultistepScheduler with SVD's sigmas, v-prediction and a midpoint: the same numbers step by step."""
    import torch
    from diffusers import DPMSolverMultistepScheduler

    sigmas = grid(6, ends_at_zero=True)
    theirs = DPMSolverMultistepScheduler(
        num_train_timesteps=1000, algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample",
        use_flow_sigmas=False, final_sigmas_type="zero", lower_order_final=False, euler_at_final=True,
    )  # fmt: skip
    theirs.set_timesteps(len(sigmas) - 1)
    theirs.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    theirs._sigma_to_alpha_sigma_t = lambda sigma: (
        torch.ones_like(sigma),
        sigma,
    )  # α = 1: SVD adds noise, it scales nothing
    x, ours, history = torch.tensor([3.0], dtype=torch.float64), 3.0, 0.0
    for timestep, sigma, update in zip(theirs.timesteps, sigmas, Solver.DPMPP_2M.updates(sigmas), strict=False):
        x = theirs.step(TAU**2 * x / (sigma**2 + TAU**2), timestep, x).prev_sample
        denoised = TAU**2 * ours / (sigma**2 + TAU**2)
        ours, history = update.a * ours + update.b * denoised + update.c * history, update.q * denoised
        assert ours == pytest.approx(float(x), rel=1e-5)


def test_a_consistency_step_adds_the_next_sigmas_noise() -> None:
    assert Solver.CONSISTENCY.updates([700.0, 13.0, 0.0]) == (Update(a=0, b=1, c=13.0), Update(a=0, b=1, c=0))
    assert Solver.CONSISTENCY.is_stochastic


@pytest.mark.parametrize(
    "sigmas", [[], [1.0], [1.0, 0.0, 0.0], [-1.0, 0.0], [math.nan, 0.0], [math.inf, 1.0], [2.0, -1.0]]
)
@pytest.mark.parametrize("solver", Solver)
def test_sigmas_that_are_none_are_refused(solver: Solver, sigmas: list[float]) -> None:
    with pytest.raises(ConfigError, match="sigma"):
        solver.check(sigmas)


@pytest.mark.parametrize("sigmas", [[3.0, 3.0, 0.0], [3.0, 4.0, 0.0], [3.0, 1.0, 2.0]])
def test_a_solver_that_looks_back_wants_sigmas_that_fall(sigmas: list[float]) -> None:
    for solver in (Solver.AB2, Solver.DPMPP_2M):
        with pytest.raises(ConfigError, match=r"do not fall .*; use euler"):
            solver.check(sigmas)
    Solver.EULER.check(sigmas)  # the way out


@given(st.lists(st.floats(1e-3, 700), min_size=2, max_size=40, unique=True), st.sampled_from(Solver))
def test_all_scalars_of_falling_sigmas_are_finite(sigmas: list[float], solver: Solver) -> None:
    falling = [*sorted(sigmas, reverse=True), 0.0]
    solver.check(falling)
    for update in solver.updates(falling):
        assert all(map(math.isfinite, vars(update).values()))
