"""What a proof is told: where it works, and how thoroughly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vcut_trt.engines.tensorrt.module import FlavourChoice
from vcut_trt.errors import ConfigError

FEWEST_STEPS = 4  # the default cut, 17 of 25, leaves a single pass of 4


@dataclass(frozen=True, kw_only=True)
class ProofConfig:
    """The same for every stage of a run.

    Raises:
        ConfigError: There are too few steps.
    """

    folder: Path
    dry: bool  # the TensorRT stand-in and the CPU in the card's place
    steps: int  # of the full-size videos
    tensorrt: FlavourChoice

    def __post_init__(self) -> None:
        if self.steps < FEWEST_STEPS:
            raise ConfigError(f"--steps is {self.steps}; with fewer than {FEWEST_STEPS} nothing is left after the cut")

    @property
    def patience(self) -> float:
        """How many times the limits of the stages: they are a card's, and a CPU is slow."""
        return 10 if self.dry else 1

    def words(self) -> list[str]:
        """The options that tell another process the same."""
        dry = ["--dry"] if self.dry else []
        return ["--output", str(self.folder), "--steps", str(self.steps), "--tensorrt", self.tensorrt.value, *dry]
