"""The model that a benchmark makes videos with: as the command line names it, opened, and as a report names it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vcut_trt.checkpoints import sources
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the user asked for; None: the model's own."""

    frames: int | None = None
    height: int | None = None
    width: int | None = None

    def video(self, checkpoint: Checkpoint) -> VideoSpec:
        """One video of this size.

        Raises:
            ConfigError: A size is out of range.
        """
        return sources.video_spec(checkpoint, 1, self.frames, self.height, self.width, None)


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model whose parts can be loaded, and what is made with it."""

    checkpoint: Checkpoint
    video: VideoSpec
    precision: Precision


def open_model(
    model: str, size: Size, *, revision: str | None, random_weights: bool, precision: Precision | None
) -> OpenModel:
    """Open what the options name; without a precision, in the model's own.

    Raises:
        ConfigError: There is no such model, or a size is out of range.
        CheckpointError: The checkpoint cannot be had.
    """
    number = precision or sources.default_precision(model)
    checkpoint = sources.open_checkpoint(model, revision=revision, precision=number, random_weights=random_weights)
    return OpenModel(checkpoint=checkpoint, video=size.video(checkpoint), precision=number)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Which model was measured."""

    model: str
    revision: str | None
    random_weights: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Subject:
        """As the checkpoint names itself."""
        return cls(model=checkpoint.model_id, revision=checkpoint.revision, random_weights=checkpoint.random_weights)

    def as_json(self, warning: str) -> dict[str, Any]:
        """For programs; with random weights also what the figures cannot say."""
        return {**asdict(self), **({"warning": warning} if self.random_weights else {})}

    def notes(self, warning: str) -> list[str]:
        """The same warning for people, as a sentence."""
        return [f"{warning[0].upper()}{warning[1:]}."] if self.random_weights else []
