"""The commands that make bundles and look into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcut_trt.bundle.bundle import Bundle, check_replaceable
from vcut_trt.bundle.manifest import DefaultsRecord
from vcut_trt.bundle.memory import GIB
from vcut_trt.commands.console import ConsoleProgress, fail, reporting
from vcut_trt.commands.export_options import (
    AllowUnfusedOption,
    CfgOption,
    CrossAttentionOption,
    CutStepOption,
    DecodeChunkOption,
    FramesOption,
    GuidanceOption,
    HeightOption,
    LikeOption,
    LoraOption,
    ModelOption,
    NoGuidanceOption,
    OpsetOption,
    OutputOption,
    PrecisionOption,
    RandomWeightsOption,
    RevisionOption,
    StepCacheOption,
    TargetOption,
    TensorrtOption,
    UNetOption,
    VariantOption,
    VideosOption,
    WidthOption,
)
from vcut_trt.commands.options import BackendOption, BundleArgument, DebugOption, DeviceOption, JsonOption
from vcut_trt.commands.views import show_bundle, show_checks, show_manifest
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.tensorrt.module import FlavourChoice, choose_flavour
from vcut_trt.engines.tensorrt.targets import TargetKind, default_targets, parse_targets
from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import DEFAULT_CROSS_ATTENTION, CfgMode
from vcut_trt.spec.graphs import OPSETS
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP
from vcut_trt.spec.steps import kinds_for
from vcut_trt.work.staging import check_stageable

if TYPE_CHECKING:
    from vcut_trt.checkpoints.base import Checkpoint
    from vcut_trt.engines.tensorrt.build import BuildConfig
    from vcut_trt.work.progress import Progress


def export(
    model: ModelOption,
    revision: RevisionOption = None,
    variant: VariantOption = None,
    random_weights: RandomWeightsOption = False,
    like: LikeOption = None,
    unet: UNetOption = None,
    lora: LoraOption = None,
    output: OutputOption = None,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    videos: VideosOption = 1,
    decode_chunk: DecodeChunkOption = None,
    precision: PrecisionOption = None,
    cross_attention: CrossAttentionOption = DEFAULT_CROSS_ATTENTION,
    cfg: CfgOption = CfgMode.BATCHED,
    cut_step: CutStepOption = DEFAULT_CUT_STEP,
    step_cache: StepCacheOption = None,
    no_guidance: NoGuidanceOption = False,
    guidance: GuidanceOption = None,
    opset: OpsetOption = OPSETS[0],
    target: TargetOption = None,
    tensorrt: TensorrtOption = FlavourChoice.AUTO,
    allow_unfused: AllowUnfusedOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a bundle of a checkpoint: ONNX graphs, and TensorRT plans."""
    with reporting(debug=debug):
        build = _wanted_plans(target, tensorrt, allow_unfused)
        defaults = _defaults(guidance, no_guidance=no_guidance)
        place = _checked_place(output or _usual_place(model))
        progress = ConsoleProgress()

        from vcut_trt.checkpoints.sources import default_precision, open_checkpoint, video_spec
        from vcut_trt.engines.tensorrt.build import build_plans
        from vcut_trt.export.exporter import ExportConfig, export_bundle

        precision = precision or default_precision(model)
        checkpoint = open_checkpoint(
            model,
            revision=revision,
            precision=precision,
            variant=variant,
            random_weights=random_weights,
            like=like,
            unet=unet,
            loras=lora or (),
            progress=progress,
        )
        config = ExportConfig(
            video=video_spec(checkpoint, videos, frames, height, width, decode_chunk),
            precision=precision,
            output=place,
            cross_attention=cross_attention,
            cfg=cfg,
            cut_step=cut_step,
            step_cache=step_cache,
            step_kinds=kinds_for(guidance=not no_guidance, step_cache=step_cache is not None),
            opset=opset,
            defaults=defaults,
            plan_folders=int(build is not None),
        )
        _warn_of_random_weights(checkpoint, progress)
        bundle = export_bundle(checkpoint, config, progress)
        show_bundle(bundle if build is None else build_plans(bundle, build, progress), as_json=as_json)


def _defaults(guidance: tuple[float, float] | None, *, no_guidance: bool) -> DefaultsRecord | None:
    """What the bundle's clips have that nobody asks otherwise for."""
    if guidance is None:
        return None
    if no_guidance:
        raise ConfigError("--no-guidance leaves nothing that --guidance could scale; leave one of them out")
    return DefaultsRecord(min_guidance_scale=guidance[0], max_guidance_scale=guidance[1])


def _checked_place(place: Path) -> Path:
    """The bundle's place, once it is known that it can be written and holds nothing but a bundle."""
    check_stageable(place)
    check_replaceable(place)
    return place


def _warn_of_random_weights(checkpoint: Checkpoint, progress: Progress) -> None:
    if checkpoint.random_weights:
        told = (
            f"{checkpoint.model_id}: RANDOM weights. The videos show nothing; time and memory are those of the model."
        )
        progress.message(told)


def _wanted_plans(target: list[str] | None, tensorrt: FlavourChoice, allow_unfused: bool) -> BuildConfig | None:
    """The plans to build after the export; none for the CPU. A missing TensorRT is told before the work."""
    targets = parse_targets(target or default_targets())
    if any(item.kind is TargetKind.CPU for item in targets):
        return None
    choose_flavour(tensorrt, targets)

    from vcut_trt.engines.tensorrt.build import BuildConfig

    return BuildConfig(targets=targets, tensorrt=tensorrt, allow_unfused=allow_unfused)


def _usual_place(model: str) -> Path:
    """Where the bundle of a model goes that the user named no place for."""
    source = Path(model).resolve()
    return Path("build") / (source.stem if source.is_file() else source.name)


def build(
    bundle: BundleArgument,
    target: TargetOption = None,
    tensorrt: TensorrtOption = FlavourChoice.AUTO,
    allow_unfused: AllowUnfusedOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Build more TensorRT plans for a bundle."""
    with reporting(debug=debug):
        from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans

        targets = parse_targets(target or default_targets())
        if any(item.kind is TargetKind.CPU for item in targets):
            fail("error: --target cpu has no plans to build; a bundle's ONNX graphs run there as they are", 2)
        config = BuildConfig(targets=targets, tensorrt=tensorrt, allow_unfused=allow_unfused)
        show_bundle(build_plans(Bundle.open(bundle), config, ConsoleProgress()), as_json=as_json)


def verify(
    bundle: BundleArgument,
    model: Annotated[
        str | None,
        typer.Option(help="The checkpoint, where it no longer lies where the bundle says.", show_default=False),
    ] = None,
    unet: Annotated[
        str | None,
        typer.Option(
            help="The same for a UNet that was trained alone: its folder or file, as for the export.",
            show_default=False,
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The same for a LoRA: its file, without the scale. Repeatable, in any order.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="For bundles that do not say it: the weights they were made from.", show_default=False),
    ] = None,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare a bundle with the checkpoint that it was made from, graph by graph and end to end."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)
        choice = choose_backend(opened, backend, device)
        opened.verify_all()

        from vcut_trt.checkpoints.recorded import open_recorded
        from vcut_trt.measure.verify import verify_bundle

        progress = ConsoleProgress()
        checkpoint = open_recorded(
            opened.manifest.model,
            precision=opened.manifest.precision,
            model=model,
            unet=unet,
            loras=lora or (),
            variant=variant,
            progress=progress,
        )
        checks = verify_bundle(opened, checkpoint, choice, progress)
        show_checks(checks, as_json=as_json)
        failed = [check for check in checks if not check.passed]
        if failed:
            names = ", ".join(f"{check.name} at {check.where}" for check in failed)
            fail(f"error: {len(failed)} of {len(checks)} checks do not hold: {names}", 1)


def inspect(
    bundle: BundleArgument,
    gpu_memory: Annotated[float, typer.Option(help="Memory of the GPU that the plans are to fit, in GiB.")] = 24.0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check every file of a bundle, show what is in it, and whether its plans fit a GPU's memory."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)
        with ConsoleProgress().stage("check every file"):
            opened.verify_all()
        show_manifest(opened, round(gpu_memory * GIB), as_json=as_json)
