"""The record of a run: `run.json`, beside the folder of its videos.

    RUN/run.json            what made the videos
    RUN/videos/*.mp4        nothing but videos: VBench takes the ending that it looks for from any one file in there
    RUN/results/*.json      what the scoring found, one file a dimension

Settings decide what the videos show; a run goes on only with its own. Versions are noted, and a change is told.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.vbench.jobs import SEED_RULE
from benchmarks.vbench.suite import DIMENSIONS, Ratio, Suite, VBenchError, first_error
from vcut_trt.bundle.manifest import Manifest, ModelRecord
from vcut_trt.errors import ConfigError
from vcut_trt.measure.versions import installed_versions
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.clip import ClipSettings, Fit
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.files import write_atomically

RECORD, VIDEOS, RESULTS = "run.json", "videos", "results"
RUN_FORMAT: Literal[1] = 1
VIDEOS_PER_IMAGE = 5  # as many as VBench looks for
LIBRARIES = ("vcut-trt", "torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "av")  # what makes videos


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BundleRecord(_Model):
    """What ran: enough of the bundle's manifest to tell it from others."""

    model: ModelRecord
    precision: Precision
    cross_attention: CrossAttention
    cfg: CfgMode
    video: VideoSpec
    graphs: dict[str, str]  # SHA-256 of each graph
    weights: dict[str, str]  # and of its weights

    @classmethod
    def of(cls, manifest: Manifest) -> BundleRecord:
        """Take it from a bundle's manifest."""
        return cls(
            model=manifest.model,
            precision=manifest.precision,
            cross_attention=manifest.cross_attention,
            cfg=manifest.cfg,
            video=manifest.video,
            graphs={name.value: graph.file.sha256 for name, graph in manifest.graphs.items()},
            weights={name.value: graph.weights.sha256 for name, graph in manifest.graphs.items()},
        )


class RunSettings(_Model):
    """Everything that decides what the videos show."""

    bundle: BundleRecord
    suite_sha256: str
    ratio: Ratio
    num_inference_steps: int
    cut_step: int
    fps: int  # of the container too: dynamic_degree samples by it
    backend: str
    videos_per_image: Annotated[int, Field(ge=1, le=VIDEOS_PER_IMAGE)]
    seed_rule: str = SEED_RULE
    motion_bucket_id: int = ClipSettings.motion_bucket_id
    noise_aug_strength: float = ClipSettings.noise_aug_strength
    min_guidance_scale: float = ClipSettings.min_guidance_scale
    max_guidance_scale: float = ClipSettings.max_guidance_scale

    def clip(self, seed: int) -> ClipSettings:
        """One video's.

        Raises:
            ConfigError: A number is out of range.
        """
        return ClipSettings(
            num_inference_steps=self.num_inference_steps,
            cut_step=self.cut_step,
            seed=seed,
            fps=self.fps,
            motion_bucket_id=self.motion_bucket_id,
            noise_aug_strength=self.noise_aug_strength,
            min_guidance_scale=self.min_guidance_scale,
            max_guidance_scale=self.max_guidance_scale,
            fit=Fit.CROP,
        )


class RunRecord(_Model):
    """`run.json`."""

    format_version: Literal[1] = RUN_FORMAT
    settings: RunSettings
    expected_videos: dict[str, int]  # that each dimension of Table IV reads
    versions: dict[str, str]

    @classmethod
    def of(cls, settings: RunSettings, suite: Suite) -> RunRecord:
        """A record of a run that begins now."""
        counts = {name: len(suite.videos_of(name, settings.videos_per_image)) for name in DIMENSIONS}
        return cls(settings=settings, expected_videos=counts, versions=installed_versions(LIBRARIES))


def read_record(run: Path) -> RunRecord:
    """Read a run's record.

    Raises:
        VBenchError: There is none, or it is damaged.
    """
    path = run / RECORD
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise VBenchError(f"{run} is no run: it has no {RECORD}. Begin one with `generate`.") from None
    except OSError as error:
        raise VBenchError(f"cannot read {path}: {error}") from error
    except (ValidationError, ConfigError) as error:
        why = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise VBenchError(f"{path} is damaged: {why}. Restore it, or begin another run.") from error


def begin_or_resume(run: Path, record: RunRecord) -> RunRecord:
    """Put the record into `run`, or compare it with the one that lies there, which is returned.

    Of several processes that begin one run at once, one writes; the others compare.

    Raises:
        VBenchError: The run has other settings, or videos that nothing is recorded of.
    """
    path = run / RECORD
    if not path.exists() and any((run / VIDEOS).glob("*.mp4")):
        raise VBenchError(f"{run / VIDEOS} has videos but {run} has no {RECORD}: begin in another --output")
    try:
        (run / VIDEOS).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_if_absent(path, record.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise VBenchError(f"cannot begin a run in {run}: {error}. Choose another --output.") from error
    found = read_record(run)
    if found.settings != record.settings:
        ours, theirs = (one.settings.model_dump(mode="json") for one in (record, found))
        changes = "; ".join(_differences(ours, theirs))
        raise VBenchError(f"{run} was begun with other settings: {changes}. Use those, or another --output.")
    return found


def _differences(asked: Mapping[str, object], recorded: Mapping[str, object], prefix: str = "") -> list[str]:
    found = []
    for name, value in asked.items():
        other = recorded[name]
        if isinstance(value, Mapping) and isinstance(other, Mapping) and value.keys() == other.keys():
            found += _differences(value, other, f"{prefix}{name}.")
        elif value != other:
            found.append(f"{prefix}{name} is {value}, there it is {other}")
    return found


def _write_if_absent(path: Path, text: str) -> None:
    """Write a whole file unless there is one: a hard link never replaces what lies at its name."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # of this process alone, whatever its host
    write_atomically(draft, text.encode())
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
