"""Figures of `vcut bench` in a form that can be given away: what `vcut bench --share FILE` writes.

    bundle, config, cuts  ─►  SharedBench  ─►  JSON, of the schema docs/bench-share.schema.json

Every field is a figure, one of a few words, or the name or version of a product. A model is named where it is one of
the family's; a folder or another's hub id could tell whose it is, and is `other`.

    python -m vcut_trt.measure.share      prints the schema
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.sources import ARCHITECTURES
from vcut_trt.checkpoints.svd import HUB_IDS
from vcut_trt.engines.backends import BackendChoice
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ConfigError, VcutError
from vcut_trt.measure.bench import BenchConfig, CutTiming
from vcut_trt.measure.machine import Machine, describe
from vcut_trt.work.files import FrozenModel, write_atomically

OTHER = "other"
Seconds = Annotated[float, Field(ge=0)]


class _Documented(FrozenModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class SharedVideo(_Documented):
    """What one call makes."""

    videos: int
    frames: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    decode_chunk: int
    """Frames that are decoded at a time."""


class SharedBundle(_Documented):
    """What was run."""

    model: str
    """A name of the family, or one of its hub ids; `other` for everything else."""
    random_weights: bool
    video: SharedVideo
    precision: str
    cross_attention: str
    cfg: str
    opset: int


class SharedEngines(_Documented):
    """What ran it."""

    backend: Literal["tensorrt", "onnxruntime"]
    device: Literal["cuda", "cpu"]
    plans: str | None
    """TensorRT's flavour and version, and the compute capabilities: rtx 1.7.1.116, 8.6 8.9. Null without plans."""
    residency: str
    """As it was asked for."""
    cuda_graphs: bool
    """As it was asked for: replayed where that can be."""


class SharedCut(_Documented):
    """One cut step. Stages are those of the video with the median total."""

    cut_step: int
    """From 1, the first step without guidance; steps + 1 never cuts."""
    median_s: Seconds
    """Of a call: from the picture to all frames in the host's memory."""
    fastest_s: Seconds
    slowest_s: Seconds
    first_frame_s: Seconds
    image_encoder_s: Seconds
    vae_encoder_s: Seconds
    binding_s: Seconds
    """Steps with guidance."""
    improvement_s: Seconds
    """Steps without."""
    decoder_s: Seconds
    rest_s: float
    """What no stage accounts for."""
    videos_per_hour: float
    cents_per_video: float | None
    """Hundredths of the price's currency; null without a price."""


class SharedBench(_Documented):
    """Figures of `vcut bench`, to be given away."""

    kind: Literal["vcut-bench"] = "vcut-bench"
    format: Literal[1] = 1
    date: str
    """The day, UTC: 2026-11-30."""
    machine: Machine
    bundle: SharedBundle
    engines: SharedEngines
    steps: int
    repeats: int
    """Timed videos of each cut step, after one that is not counted."""
    price_per_hour: Annotated[float, Field(gt=0)] | None
    """Of the machine, as the user gave it, in any currency."""
    cuts: tuple[SharedCut, ...]


def check_price(price_per_hour: float | None) -> None:
    """Refuse a price that is none.

    Raises:
        ConfigError: It is not a positive number.
    """
    if price_per_hour is not None and not 0 < price_per_hour < float("inf"):
        raise ConfigError(f"--price-per-hour is {price_per_hour}; it must be above 0")


def shared_bench(
    bundle: Bundle,
    config: BenchConfig,
    choice: BackendChoice,
    options: EngineOptions,
    cuts: Sequence[CutTiming],
    price_per_hour: float | None,
) -> SharedBench:
    """What `bench_bundle` measured, without what only concerns its user."""
    plans = choice.plans
    return SharedBench(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        machine=describe(choice.device),
        bundle=_bundle(bundle),
        engines=SharedEngines(
            backend="onnxruntime" if plans is None else "tensorrt",
            device="cuda" if choice.device.type == "cuda" else "cpu",
            plans=plans and f"{plans.flavour} {plans.version}, {' '.join(plans.compute_capabilities)}",
            residency=options.residency.value,
            cuda_graphs=options.cuda_graphs,
        ),
        steps=config.num_inference_steps,
        repeats=config.repeats,
        price_per_hour=price_per_hour,
        cuts=tuple(_cut(cut, price_per_hour) for cut in cuts),
    )


def write_shared(shared: FrozenModel, path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        VcutError: It cannot be written.
    """
    try:
        write_atomically(path, (shared.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise VcutError(f"cannot write {path}: {error.strerror}") from error


def _bundle(bundle: Bundle) -> SharedBundle:
    manifest, video = bundle.manifest, bundle.manifest.video
    known = {*ARCHITECTURES, *HUB_IDS, *HUB_IDS.values()}
    return SharedBundle(
        model=manifest.model.id if manifest.model.id in known else OTHER,
        random_weights=manifest.model.random_weights,
        video=SharedVideo(
            videos=video.videos,
            frames=video.frames,
            height=video.height,
            width=video.width,
            decode_chunk=video.decode_chunk,
        ),
        precision=manifest.precision.value,
        cross_attention=manifest.cross_attention.value,
        cfg=manifest.cfg.value,
        opset=manifest.opset,
    )


def _cut(cut: CutTiming, price_per_hour: float | None) -> SharedCut:
    timing, spent = cut.timing, cut.timing.typical
    return SharedCut(
        cut_step=cut.cut_step,
        median_s=timing.latency_s,
        fastest_s=timing.fastest_s,
        slowest_s=timing.slowest_s,
        first_frame_s=spent.first_frame_s,
        image_encoder_s=spent.image_encoder_s,
        vae_encoder_s=spent.vae_encoder_s,
        binding_s=spent.binding_s,
        improvement_s=spent.improvement_s,
        decoder_s=spent.decoder_s,
        rest_s=spent.rest_s,
        videos_per_hour=cut.videos_per_hour,
        cents_per_video=cut.cents(price_per_hour),
    )


def schema() -> str:
    """The JSON schema of what is written."""
    return json.dumps(SharedBench.model_json_schema(), indent=2) + "\n"


def main() -> None:
    """Print the schema."""
    argparse.ArgumentParser(description="Print the JSON schema of what `vcut bench --share` writes.").parse_args()
    print(schema(), end="")


if __name__ == "__main__":
    main()
