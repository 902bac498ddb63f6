"""Which kind each denoising step is of.

    semantic binding       steps 1 … c−1   classifier-free guidance: two UNet passes a step
    quality improvement    steps c … N     one UNet pass a step

Steps count from 1: only then do 62.86·(16 + 9/2) = 1288.6 T MACs for SVD-XT at c = 17 give Table III of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcut_trt.errors import ConfigError
from vcut_trt.spec.steps import GUIDED, SINGLE, Stage, StepKind

REFERENCE_STEPS = 25
"""The number of steps that a bundle's cut step refers to: diffusers' default, and by inference the paper's number (its
1610 T MACs a video over 64.41 T a guided step)."""


@dataclass(frozen=True, kw_only=True)
class CutSchedule:
    """Which kind each denoising step is of. Steps count from 1, as in the paper.

    Raises:
        ConfigError: There is no step at all, or the cut step lies outside 1 … N + 1.
    """

    num_inference_steps: int
    cut_step: int  # the first step without guidance; num_inference_steps + 1 = never cut

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ConfigError(f"num_inference_steps is {self.num_inference_steps}; it must be at least 1")
        if not 1 <= self.cut_step <= self.num_inference_steps + 1:
            raise ConfigError(
                f"cut_step is {self.cut_step}; with {self.num_inference_steps} steps it must lie in "
                f"1 … {self.num_inference_steps + 1} ({self.num_inference_steps + 1} = never cut)"
            )

    @classmethod
    def scaled(cls, *, num_inference_steps: int, reference_cut_step: int) -> CutSchedule:
        """The schedule that cuts at the same share of the steps as `reference_cut_step` does of 25.

        17 of 25 (guidance in 16/25 of the steps) becomes 33 of 50; 26 of 25, never, stays never.
        """
        reference = cls(num_inference_steps=REFERENCE_STEPS, cut_step=reference_cut_step)
        binding_steps = round(num_inference_steps * reference.binding_steps / REFERENCE_STEPS)
        return cls(num_inference_steps=num_inference_steps, cut_step=binding_steps + 1)

    @classmethod
    def chosen(cls, *, num_inference_steps: int, cut_step: int | None, reference_cut_step: int) -> CutSchedule:
        """The schedule with a cut step of the user's, or, without one, with the bundle's, scaled."""
        if cut_step is None:
            return cls.scaled(num_inference_steps=num_inference_steps, reference_cut_step=reference_cut_step)
        return cls(num_inference_steps=num_inference_steps, cut_step=cut_step)

    @property
    def binding_steps(self) -> int:
        """The number of steps with guidance."""
        return self.cut_step - 1

    @property
    def unet_passes(self) -> int:
        """UNet evaluations for one video: two a step before the cut, one after."""
        return sum(self.kind(step).unet_passes for step in range(1, self.num_inference_steps + 1))

    def kind(self, step: int) -> StepKind:
        """The kind of step `step`, 1 … N."""
        assert 1 <= step <= self.num_inference_steps, step
        return GUIDED if step < self.cut_step else SINGLE

    def stage(self, step: int) -> Stage:
        """The paper's stage that step `step` stands in, 1 … N."""
        return self.kind(step).stage


DEFAULT_CUT_STEP = 17  # of REFERENCE_STEPS: the paper's choice between speed and quality, Table IV
