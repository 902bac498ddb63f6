"""Parity in one place: stock PyTorch, folded PyTorch and a bundle's engines, graph by graph and end to end.

    fold        stock UNet            against  folded UNet            both PyTorch, fp32
    graph       module, fp32          against  the bundle's engine    for each of them
    pipeline    modules, fp32         against  the bundle's engines   a whole video, cut in the middle
    stock       diffusers' pipeline   against  the bundle's engines   a whole video, never cut

    relative error = ‖came − reference‖ / ‖reference‖

With `paper`, the fold and the stock comparison show how large the approximation is; nothing there can fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.bundle.manifest import Manifest
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.engines.backends import BackendChoice, open_backend
from vcut_trt.engines.base import Engine
from vcut_trt.engines.opener import EngineOpener, EngineOptions
from vcut_trt.engines.torch_engine import ModuleOpener
from vcut_trt.engines.workspace import Workspace, torch_dtype
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.graphs import graph_modules
from vcut_trt.measure.parity import FOLD_TOLERANCE, Check, compare, example_inputs
from vcut_trt.measure.samples import SEED, sample_images
from vcut_trt.measure.stock import stock_pipeline
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.residency import Residency, layouts
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.video import LATENT_CHANNELS, VideoSpec
from vcut_trt.work.progress import SILENT, Progress

STEPS, CUT_STEP = 4, 3


def verify_bundle(
    bundle: Bundle, checkpoint: Checkpoint, choice: BackendChoice, progress: Progress = SILENT
) -> list[Check]:
    """Compare a bundle with the checkpoint that it was made from.

    Raises:
        BundleError: A file is missing or was changed.
        CheckpointError: The checkpoint cannot be loaded.
        EngineError: An engine cannot be opened.
    """
    with _true_fp32():
        return _checks(bundle, checkpoint, choice, progress)


def verify_graphs(
    bundle: Bundle,
    checkpoint: Checkpoint,
    choice: BackendChoice,
    reference_device: torch.device,
    progress: Progress = SILENT,
) -> list[Check]:
    """Compare each of a bundle's engines with PyTorch in fp32 on a device that need not be the engines'.

    Raises:
        BundleError: A file is missing or was changed.
        CheckpointError: The checkpoint cannot be loaded.
        EngineError: An engine cannot be opened.
    """
    with _true_fp32(), _references(checkpoint, bundle.manifest, Workspace(reference_device)) as references:
        return _check_graphs(bundle, choice, references, progress)


@contextmanager
def _true_fp32() -> Iterator[None]:
    """Convolutions and products of fp32 tensors in fp32: on CUDA, PyTorch lets cuDNN round their inputs to TF32."""
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _checks(bundle: Bundle, checkpoint: Checkpoint, choice: BackendChoice, progress: Progress) -> list[Check]:
    manifest = bundle.manifest
    checks = []
    if manifest.cross_attention is not CrossAttention.ORIGINAL:
        with progress.stage("fold: stock UNet against folded UNet"):
            checks.append(check_fold(checkpoint, bundle))
    workspace = Workspace(choice.device)
    with _references(checkpoint, manifest, workspace) as references:
        checks += _check_graphs(bundle, choice, references, progress)
        with progress.stage("pipeline: PyTorch against engines"):
            checks.append(_check_pipeline(bundle, choice, references))
    with progress.stage("stock: diffusers against engines"):
        expected = _stock_video(checkpoint, bundle, choice.device)
        workspace.release_cache()
        checks.append(_check_video(bundle, choice, "stock", "diffusers, never cut", expected, STEPS + 1))
    return checks


def _references(checkpoint: Checkpoint, manifest: Manifest, workspace: Workspace) -> ModuleOpener:
    """The graphs' modules in fp32; on a GPU they come and go, so that there is room for the engines too."""
    graphs = graph_modules(
        checkpoint,
        cross_attention=manifest.cross_attention,
        cfg=manifest.cfg,
        dtype=torch.float32,
        kinds=manifest.step_kinds,
        split=manifest.step_cache,
    )
    specs = graphs.specs(manifest.video, Precision.FP32)
    layout = layouts(Residency.STAGED, tuple(specs))[-1]
    return ModuleOpener(graphs.modules, specs, workspace, layout=layout)


def check_fold(checkpoint: Checkpoint, bundle: Bundle) -> Check:
    """One UNet evaluation, stock against folded, in fp32 on the CPU."""
    manifest = bundle.manifest
    video = manifest.video
    unet = checkpoint.unet(torch.float32)
    generator = torch.Generator().manual_seed(SEED)
    sample = torch.randn(1, video.frames, 8, video.latent_height, video.latent_width, generator=generator)
    embedding = torch.randn(1, 1, checkpoint.embedding_width, generator=generator)
    conditions = {"timestep": torch.tensor(0.5), "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]])}
    with torch.inference_mode():
        stock = unet(sample, encoder_hidden_states=embedding, return_dict=False, **conditions)[0]
        projection = fold_cross_attention(unet, manifest.cross_attention)
        folded = unet(sample, encoder_hidden_states=projection(embedding), return_dict=False, **conditions)[0]
    exact = manifest.cross_attention is CrossAttention.EXACT
    return compare("fold", "stock UNet", stock, folded, FOLD_TOLERANCE if exact else None)


def _check_graphs(bundle: Bundle, choice: BackendChoice, references: ModuleOpener, progress: Progress) -> list[Check]:
    checks = []
    options = EngineOptions(residency=Residency.STAGED, cuda_graphs=False)
    with open_backend(bundle, choice, options) as opener:
        for name in bundle.manifest.graphs:
            with progress.stage(f"graph: {name.value}"):
                checks.append(_check_graph(bundle, name, references, opener))
    return checks


def _check_graph(bundle: Bundle, name: GraphName, references: ModuleOpener, opener: EngineOpener) -> Check:
    """The worst of a graph's outputs."""
    inputs = example_inputs(graph_spec(bundle, name), references.workspace.device)
    with references.open(name) as reference:
        named = {**_of_any_solver(inputs, reference), **inputs}
        exact = {spec.name: named[spec.name].to(torch_dtype(spec.dtype)) for spec in reference.inputs}
        expected = {output: tensor.cpu() for output, tensor in reference(**exact).items()}
    references.unload()
    here = opener.workspace.device
    with opener.open(name) as engine:
        came = engine(**{key: tensor.to(here) for key, tensor in inputs.items()})
    compared = f"PyTorch, fp32, {references.workspace.device.type}"
    tolerance = bundle.manifest.precision.row.graph_tolerance
    checks = [compare(name.value, compared, expected[output], tensor, tolerance) for output, tensor in came.items()]
    return max(checks, key=lambda check: (math.isnan(check.relative_error), check.relative_error))


def _of_any_solver(inputs: Mapping[str, Tensor], reference: Engine) -> dict[str, Tensor]:
    """What today's steps take in the place of the two sigmas of a bundle before format 5: Euler's scalars."""
    if "sigma_next" not in inputs:
        return {}
    sigmas = (float(inputs["sigma"]), float(inputs["sigma_next"]))
    (update,) = Solver.EULER.updates(sigmas)
    shapes = {spec.name: spec.shape for spec in reference.inputs}
    scalars = torch.zeros(shapes["scalars"])
    scalars[:3] = torch.tensor([sigmas[0], update.a, update.b])
    named = {"scalars": scalars}
    named |= {name: torch.zeros(shapes[name]) for name in shapes if name in ("history", "guidance_residual")}
    return {name: tensor.to(inputs["sigma"].device) for name, tensor in named.items()}


def _check_pipeline(bundle: Bundle, choice: BackendChoice, references: ModuleOpener) -> Check:
    manifest = bundle.manifest
    with VCutPipeline.from_configs(
        bundle.root,
        EngineSet(references, Residency.STAGED),
        video=manifest.video,
        precision=Precision.FP32,
        default_cut_step=manifest.cut_step,
        steps=manifest.steps,
    ) as theirs:
        expected = _video(theirs)
    return _check_video(bundle, choice, "pipeline", "PyTorch, cut", expected, CUT_STEP)


def _check_video(
    bundle: Bundle, choice: BackendChoice, name: str, compared: str, reference: Tensor, cut_step: int
) -> Check:
    with VCutPipeline.from_choice(bundle, choice, EngineOptions()) as ours:
        came = _video(ours, cut_step=cut_step)
    approximate = name == "stock" and bundle.manifest.cross_attention is CrossAttention.PAPER
    tolerance = None if approximate else bundle.manifest.precision.row.frame_tolerance
    check = compare(name, compared, reference, came, tolerance)
    return Check(**{**vars(check), "judged": "largest_difference"})


def _video(pipeline: VCutPipeline, cut_step: int = CUT_STEP) -> Tensor:
    """Frames (V, F, 3, H, W) in [0, 1] of one fixed image, seed and noise."""
    frames = pipeline(
        sample_images(pipeline.video.videos),
        num_inference_steps=STEPS,
        cut_step=cut_step,
        generator=torch.Generator().manual_seed(SEED),
        latents=_latents(pipeline.video),
        output_type="pt",
        return_dict=False,
    )
    assert isinstance(frames, Tensor)
    return frames.cpu()


def _latents(video: VideoSpec) -> Tensor:
    """The same numbers in every precision."""
    shape = (video.videos, video.frames, LATENT_CHANNELS, video.latent_height, video.latent_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED + 1))


def _stock_video(checkpoint: Checkpoint, bundle: Bundle, device: torch.device) -> Tensor:
    """The same video from diffusers' own pipeline, in fp32."""
    stock = stock_pipeline(checkpoint, torch.device("cpu"), torch.float32)
    if device.type == "cuda":
        stock.enable_model_cpu_offload(device=device)  # all of it in fp32 is more than a 24 GB card holds
    video = bundle.manifest.video
    lowest, highest = bundle.manifest.steps.guidance
    latents = stock(
        sample_images(video.videos),
        min_guidance_scale=lowest,
        max_guidance_scale=highest,
        height=video.height,
        width=video.width,
        num_frames=video.frames,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        latents=_latents(video),
        output_type="latent",
        return_dict=False,
    )
    assert isinstance(latents, Tensor)
    with torch.no_grad():  # one video after the other: diffusers' chunks go on from one video into the next
        decoded = [stock.decode_latents(one, video.frames, video.decode_chunk) for one in torch.split(latents, 1)]
    frames = stock.video_processor.postprocess_video(torch.cat(decoded), output_type="pt")
    assert isinstance(frames, Tensor)
    return frames
