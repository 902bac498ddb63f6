"""VCutPipeline: an image in, a video out, over a bundle's engines.

It takes the arguments of diffusers' StableVideoDiffusionPipeline under the same names, with the same defaults and the
same order of random numbers, so that it drops in; and `cut_step`.

    condition    image_encoder, vae_encoder       once a video
    denoise      unet_cfg, then unet_single       N steps, nothing but enqueues: the host never waits for the GPU
    decode       vae_decoder, vae_decoder_rest    a few frames at a time
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, BackendChoice, choose_backend, open_backend
from vcut_trt.engines.cpu_estimate import why_slow
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.workspace import out_of_memory
from vcut_trt.errors import ConfigError
from vcut_trt.runtime.arguments import (
    check_choices,
    check_generator,
    check_latents,
    check_sizes,
    check_videos,
    chosen_guidance,
    guidance_scales,
)
from vcut_trt.runtime.bound_graph import bind_all
from vcut_trt.runtime.call import Call, Generators
from vcut_trt.runtime.callbacks import StepCallback, after_step, unchanged
from vcut_trt.runtime.conditioning import encode_images
from vcut_trt.runtime.configs import read_configs
from vcut_trt.runtime.decoding import decode
from vcut_trt.runtime.denoiser import StepEngines
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.guard import FiniteGuard
from vcut_trt.runtime.habits import DiffusersHabits
from vcut_trt.runtime.noise import initial_latents, step_noise
from vcut_trt.runtime.pictures import as_output, to_pictures
from vcut_trt.runtime.plans import plan_of_call
from vcut_trt.runtime.preprocessor import ImagePreprocessor
from vcut_trt.runtime.ranges import annotate
from vcut_trt.runtime.schedulers import check_scheduler
from vcut_trt.spec.choices import chosen
from vcut_trt.spec.clip import MicroConditions
from vcut_trt.spec.interface import ENCODERS
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.step_plan import StepPlan, StepSupport
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.closing import Closing

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler
    from diffusers.pipelines.stable_video_diffusion import StableVideoDiffusionPipelineOutput

    from vcut_trt.runtime.preprocessor import ImageInput

logger = logging.getLogger(__name__)


class VCutPipeline(DiffusersHabits, Closing):
    """Image-to-video with a cut. Close it, or use it in a `with` block, to free its engines.

    Calls from several threads wait for each other: the engines share their tensors.

    Args:
        engines: The engines of the graphs.
        video: The size of what the engines make.
        precision: The bundle's.
        scheduler: Makes the sigmas; copied for every video. See `schedulers.check_scheduler`.
        preprocessor: Makes the encoders' inputs.
        default_cut_step: Of 25 steps; scaled to the number of steps of a call.
        steps: Which plans the engines can follow.

    A call takes diffusers' arguments, under their names and with their defaults, `cut_step` and `step_plan`. The sizes
    and the decode chunk are fixed at export; if given, they must be the bundle's.

        image                    a PIL image, a list of them, or a tensor (n, 3, height, width) in [0, 1]
        height, width            pixels
        num_frames               frames of a video
        num_inference_steps      N
        sigmas                   the scheduler's sigmas, the last one (0) included, instead of N
        min_guidance_scale       of the first frame; by default 1, or the bundle's
        max_guidance_scale       of the last frame; by default 3, or the bundle's. At 1 or below nothing is guided
        fps                      frames a second that the UNet is told of
        motion_bucket_id         how much moves, 0 … 255
        noise_aug_strength       noise added to the image
        decode_chunk_size        frames decoded at a time
        num_videos_per_prompt    m, videos of each image: image k makes videos k·m … k·m + m − 1
        generator                makes the random numbers; a list has one for each video
        latents                  (V, F, 4, h, w) standard normal, instead of drawing them
        output_type              `pil`, `np`, `pt` or `latent`
        callback_on_step_end     see `callbacks.StepCallback`
        callback_on_step_end_tensor_inputs    what the callback gets: `latents`, copied for it, or nothing
        return_dict              whether to wrap the frames in diffusers' output class
        cut_step                 c, the first step without guidance, from 1; N + 1 never cuts. By default the bundle's,
                                 scaled
        step_plan                takes the place of num_inference_steps, sigmas and cut_step: see `StepPlan`
    """

    def __init__(
        self,
        engines: EngineSet,
        *,
        video: VideoSpec,
        precision: Precision,
        scheduler: EulerDiscreteScheduler,
        preprocessor: ImagePreprocessor,
        default_cut_step: int,
        steps: StepSupport,
    ) -> None:
        self._engines = engines
        self.steps = steps
        self.video = video
        self.precision = precision
        self.default_cut_step = default_cut_step
        self._preprocessor = preprocessor
        self._lock = threading.RLock()
        self._is_running = False
        self.scheduler = scheduler

    @classmethod
    def from_bundle(
        cls,
        bundle: str | Path | Bundle,
        *,
        backend: Backend | str = Backend.AUTO,
        device: str = "auto",
        residency: Residency | str = Residency.AUTO,
        cuda_graphs: bool = True,
    ) -> VCutPipeline:
        """Open a bundle's graphs.

        Args:
            bundle: A bundle, or its folder.
            backend: `auto` takes TensorRT where the bundle has plans for this GPU, else ONNX Runtime.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            residency: `resident` keeps all engines loaded, `staged` loads each stage's when its turn comes; `auto`
                takes what the GPU's free memory has room for.
            cuda_graphs: Whether launches are replayed from CUDA graphs, where that can be.

        Raises:
            BundleError: There is no bundle, or a file of it is missing or was changed.
            EngineError: The backend cannot run here; DeviceMemoryError where the GPU has no room.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
        choice = choose_backend(opened, chosen(Backend, "backend", backend), device)
        logger.info("running on %s, %s: %s", choice.backend.value, choice.device, choice.reason)
        slow = why_slow(opened.manifest, choice)
        if slow is not None:
            logger.warning("%s", slow)
        allowed = chosen(Residency, "residency", residency)
        return cls.from_choice(opened, choice, EngineOptions(residency=allowed, cuda_graphs=cuda_graphs))

    @classmethod
    def from_choice(cls, bundle: Bundle, choice: BackendChoice, options: EngineOptions) -> VCutPipeline:
        """Open a bundle's graphs on the backend that `choose_backend` chose. See `from_bundle`."""
        return cls.over(bundle, EngineSet(open_backend(bundle, choice, options), options.residency))

    @classmethod
    def from_configs(
        cls,
        folder: Path,
        engines: EngineSet,
        *,
        video: VideoSpec,
        precision: Precision,
        default_cut_step: int,
        steps: StepSupport,
    ) -> VCutPipeline:
        """A pipeline with the scheduler and the feature extractor that lie in `folder`, in diffusers' layout.

        Raises:
            BundleError: They cannot be used.
        """
        scheduler, preprocessor = read_configs(folder, video)
        return cls(
            engines,
            video=video,
            precision=precision,
            scheduler=scheduler,
            preprocessor=preprocessor,
            default_cut_step=default_cut_step,
            steps=steps,
        )

    @classmethod
    def over(cls, bundle: Bundle, engines: EngineSet) -> VCutPipeline:
        """A pipeline over a set of engines, with a bundle's scheduler and sizes; it owns the set, also if this fails.

        Raises:
            BundleError: The bundle's configurations were changed or cannot be used.
        """
        manifest = bundle.manifest
        try:
            bundle.verify_configs()
            return cls.from_configs(
                bundle.root,
                engines,
                video=manifest.video,
                precision=manifest.precision,
                default_cut_step=manifest.cut_step,
                steps=manifest.steps,
            )
        except BaseException:
            engines.close()
            raise

    @property
    def scheduler(self) -> EulerDiscreteScheduler:
        """What makes the sigmas; inside a callback, the running call's own, with its steps set.

        Raises:
            ConfigError: When set: the graphs cannot take its steps, or a callback sets it.
        """
        return self._latest.scheduler if self._is_running and self._latest else self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: EulerDiscreteScheduler) -> None:
        check_scheduler(scheduler)
        with self._lock:  # after a video that another thread is making
            if self._is_running:
                raise ConfigError("the scheduler of a video cannot be changed from its own callback; set it before")
            self._scheduler = scheduler

    @property
    def residency(self) -> Residency:
        """Which engines are loaded at the same time: `resident` or `staged`."""
        return self._engines.layout.residency

    @contextmanager
    def exclusive_engines(self) -> Iterator[EngineSet]:
        """The engines, for something else than a video, which waits meanwhile: see `warm_up`."""
        with torch.inference_mode(False), torch.no_grad(), self._exclusively():
            yield self._engines

    def close(self) -> None:
        """Free the engines, after a video that another thread is making."""
        with self._lock:
            self._engines.close()

    @torch.inference_mode(False)  # tensors that outlive the call must not be inference tensors, whoever calls
    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: list[float] | None = None,
        min_guidance_scale: float | None = None,
        max_guidance_scale: float | None = None,
        fps: int = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
        return_dict: bool = True,
        *,
        cut_step: int | None = None,
        step_plan: StepPlan | None = None,
    ) -> StableVideoDiffusionPipelineOutput | Any:
        """Make the bundle's number of videos. What the arguments mean is in the description of the class.

        Returns:
            An object with `frames`: a list of lists of PIL images, an array (V, F, H, W, 3), a tensor (V, F, 3, H, W),
            or the latents.

        Raises:
            ConfigError: An argument is out of range or not the bundle's.
            ImageError: The image cannot be used.
            NotFiniteError: Numbers overflowed; the message names the step and a remedy.
            DeviceMemoryError: The GPU has no room for the video.
        """
        check_sizes(self.video, height=height, width=width, num_frames=num_frames, decode_chunk_size=decode_chunk_size)
        check_choices(output_type, callback_on_step_end_tensor_inputs)
        check_latents(self.video, latents)
        lowest, highest = chosen_guidance(self.steps, min_guidance_scale, max_guidance_scale)
        scales = guidance_scales(lowest, highest, self.video.frames)
        conditions = MicroConditions(fps=fps, motion_bucket_id=motion_bucket_id, noise_aug_strength=noise_aug_strength)
        is_guided = highest > 1  # as diffusers decides it
        plan, scheduler = plan_of_call(
            self._scheduler,
            num_inference_steps=num_inference_steps,
            sigmas=sigmas,
            cut_step=cut_step,
            step_plan=step_plan,
            reference_cut_step=self.default_cut_step,
            is_guided=is_guided,
        )
        self.steps.check(plan)
        call = Call(
            video=self.video,
            conditions=conditions,
            scheduler=scheduler,
            plan=plan,
            scales=scales,
            guidance=scales.to(self.device) if is_guided else None,
            after_step=after_step(self, callback_on_step_end, tuple(callback_on_step_end_tensor_inputs)),
            videos_per_image=num_videos_per_prompt,
            generator=generator,
        )
        pixels = self._preprocessor(image)
        check_videos(self.video, len(pixels[0]), num_videos_per_prompt)
        check_generator(generator, self.video.videos, self.device)
        with self._making(call):
            frames = self._frames(pixels, latents, call, output_type)
        return as_output(frames) if return_dict else frames

    def _frames(self, pixels: tuple[Tensor, Tensor], noise: Tensor | None, call: Call, output_type: str) -> Any:
        """Condition, denoise and decode: frames of the kind that was asked for, or latents."""
        guard = FiniteGuard(call.plan, self.device)
        with annotate("pipeline: %d steps, cut at %d", call.plan.num_inference_steps, call.plan.cut_step):
            latents = self._latents(pixels, noise, call, guard)
            with annotate("stage: decode"):
                frames: Any = latents.clone() if output_type == "latent" else self._decoded(latents, guard)
            guard.check(self.precision)
            self._engines.end_video()
            if output_type == "pil":
                frames = to_pictures(frames)
            elif output_type != "latent":
                frames = self._preprocessor.video_processor.postprocess_video(frames, output_type=output_type)
        if isinstance(frames, Tensor):
            self._engines.workspace.hand_over(frames)
        return frames

    def _latents(self, pixels: tuple[Tensor, Tensor], noise: Tensor | None, call: Call, guard: FiniteGuard) -> Tensor:
        """The denoised latents, (V, F, 4, h, w), fp32, of the loop's own memory."""
        with annotate("stage: condition"):
            conditioning = encode_images(
                self._engines.stage(ENCODERS, bind_all),
                pixels,
                call.conditions,
                device=self.device,
                videos_per_image=call.videos_per_image,
                generator=call.generator,
            )
            latents = initial_latents(call, noise, self.precision, self.device)
            guard.note_inputs(conditioning.image_latents, conditioning.image_projection, latents)
        with annotate("stage: denoise"):
            steps = self._engines.stage(self._engines.layout.steps, StepEngines)
            drawn = step_noise(call, self.precision, self.device)
            denoiser = steps.denoiser(conditioning, call.plan, call.guidance, drawn)
            with self._steps_told(len(call.scheduler.timesteps)) as tell:
                for index, timestep in enumerate(call.scheduler.timesteps):
                    latents = denoiser(latents, index + 1)
                    latents = call.after_step(index, timestep, latents)
                    guard.note_step(index + 1, latents)
                    tell(index)
        return latents

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """One video at a time, on the engines' stream."""
        with self._lock:
            if self._is_running:
                raise ConfigError("a pipeline cannot be called from its own callback; its engines are at work")
            self._is_running = True
            try:
                with self._engines.workspace.running(), out_of_memory("the tensors of a video"):
                    yield
            finally:
                self._is_running = False

    @contextmanager
    def _making(self, call: Call) -> Iterator[None]:
        """The time of one video."""
        with self._exclusively():
            self._latest = call
            try:
                yield
            finally:
                self._latest = replace(call, after_step=unchanged, generator=None)  # and keep nothing of the caller's

    def _decoded(self, latents: Tensor, guard: FiniteGuard) -> Tensor:
        """Frames (V, 3, F, H, W), fp32, of (V, F, 4, h, w)."""
        decoders = self._engines.stage(self._engines.layout.decoders, bind_all)
        frames = decode(decoders, latents, self.video)
        guard.note_frames(frames)
        return frames
