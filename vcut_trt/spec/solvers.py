"""Solvers, as numbers: what a denoising step does with D, the denoised latents that the UNet stands for.

    next         = a·x + b·D + c·history
    next_history = p·x + q·D

x are the latents at σ, σ' is the next sigma. Every graph of a step computes these two lines, in fp32, with the scalars
that it is given; so a solver is five numbers a step, and none needs an export of its own.

    euler         the slope d = (x − D)/σ, followed to σ':  a = σ'/σ, b = 1 − a
    ab2           Adams and Bashforth's second order on the same slope, for steps of any length (Hairer, Nørsett,
                  Wanner, Solving Ordinary Differential Equations I, III.5). With r = (σ' − σ) / 2(σ − σ_before):
                  next = x + (σ' − σ) · ((1 + r)·d − r·d_before);  history = d
    dpmpp_2m      DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2) for α = 1, λ = −ln σ. With h = ln σ/σ' and
                  r = h_before / h:  next = (σ'/σ)·x + (1 − σ'/σ) · ((1 + 1/2r)·D − D_before/2r);  history = D
    consistency   next = D + σ'·noise (Song et al., arXiv 2303.01469, algorithm 1): for models distilled to map any x to
                  its end; history is fresh noise

The two of second order take their first step as Euler does, and every solver ends with D where σ' = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from vcut_trt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Update:
    """The five scalars of one step, under the names of this module's description."""

    a: float  # of the latents
    b: float  # of the denoised latents
    c: float = 0.0  # of the history
    p: float = 0.0  # of the latents, in the next history
    q: float = 0.0  # of the denoised latents, in the next history


class Solver(str, Enum):
    """How a step is taken."""

    EULER = "euler"
    AB2 = "ab2"
    DPMPP_2M = "dpmpp_2m"
    CONSISTENCY = "consistency"

    @property
    def is_stochastic(self) -> bool:
        """Whether its history is noise, drawn anew for every step."""
        return self is Solver.CONSISTENCY

    @property
    def looks_back(self) -> bool:
        """Whether a step needs the one before."""
        return self in (Solver.AB2, Solver.DPMPP_2M)

    def updates(self, sigmas: Sequence[float]) -> tuple[Update, ...]:
        """The scalars of all steps.

        Args:
            sigmas: N + 1 of them: positive, but for the last one, which may be 0; see `check`.
        """
        return tuple(self._update(sigmas, index) for index in range(len(sigmas) - 1))

    def check(self, sigmas: Sequence[float]) -> None:
        """Refuse sigmas that this solver cannot go through.

        Raises:
            ConfigError: There are fewer than two, one of them is not a positive number (the last one may be 0), or they
                do not fall and the solver looks back.
        """
        if len(sigmas) < 2:
            raise ConfigError(f"there are {len(sigmas)} sigmas; a step goes from one to another: two are the fewest")
        for place, sigma in enumerate(sigmas, start=1):
            is_last = place == len(sigmas)
            if not math.isfinite(sigma) or sigma < 0 or (sigma == 0 and not is_last):
                raise ConfigError(
                    f"sigma {place} of {len(sigmas)} is {sigma}; sigmas are positive and finite, the last one may be 0"
                )
        if self.looks_back and any(later >= earlier for earlier, later in pairwise(sigmas)):
            raise ConfigError(f"the sigmas do not fall from each step to the next, as {self.value} needs it; use euler")

    def _update(self, sigmas: Sequence[float], index: int) -> Update:
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        is_plain = index == 0 or sigma_next == 0
        if self is Solver.CONSISTENCY:
            return Update(a=0.0, b=1.0, c=sigma_next)
        if self is Solver.AB2:
            p, q = 1 / sigma, -1 / sigma
            if is_plain:
                return _euler(sigma, sigma_next, p=p, q=q)
            step = sigma_next - sigma
            r = step / (2 * (sigma - sigmas[index - 1]))
            weight = step * (1 + r) / sigma
            return Update(a=1 + weight, b=-weight, c=-step * r, p=p, q=q)
        if self is Solver.DPMPP_2M:
            if is_plain:
                return _euler(sigma, sigma_next, q=1.0)
            half = math.log(sigma / sigma_next) / (2 * math.log(sigmas[index - 1] / sigma))  # 1 / 2r
            rest = 1 - sigma_next / sigma
            return Update(a=sigma_next / sigma, b=rest * (1 + half), c=-rest * half, q=1.0)
        return _euler(sigma, sigma_next)


def _euler(sigma: float, sigma_next: float, *, p: float = 0.0, q: float = 0.0) -> Update:
    return Update(a=sigma_next / sigma, b=1 - sigma_next / sigma, p=p, q=q)
