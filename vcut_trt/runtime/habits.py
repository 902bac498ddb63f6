"""What users of diffusers do with a pipeline beside calling it: done where it means something here, else one sentence.

done      set_progress_bar_config, enable_model_cpu_offload, enable_sequential_cpu_offload, to
read      num_timesteps, guidance_scale, do_classifier_free_guidance, dtype, device
said      what can only make diffusers' pipeline leaner or faster: a sentence in the log, and the script goes on
refused   what would change the frames, or needs diffusers' modules: NotOfferedError, with what takes its place
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from vcut_trt.engines.workspace import torch_dtype
from vcut_trt.errors import ConfigError, NotOfferedError
from vcut_trt.runtime.call import Call
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.step_report import StepReport
from vcut_trt.spec.precision import Precision

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_ATTENTION = "the backend chooses how attention is computed, and fuses it where it can"
_CHUNKS = "frames are decoded a chunk at a time already; vcut-export --decode-chunk sets how many"
_HOOKS = "nothing was hooked into this pipeline; close() frees its engines"

SAID = {
    "enable_attention_slicing": _ATTENTION,
    "disable_attention_slicing": _ATTENTION,
    "enable_xformers_memory_efficient_attention": _ATTENTION,
    "disable_xformers_memory_efficient_attention": _ATTENTION,
    "enable_vae_slicing": _CHUNKS,
    "disable_vae_slicing": _CHUNKS,
    "disable_vae_tiling": "frames are not decoded in tiles",
    "disable_freeu": "there is no FreeU here",
    "maybe_free_model_hooks": _HOOKS,
    "remove_all_hooks": _HOOKS,
    "reset_device_map": _HOOKS,
}
"""What changes no frame: calling it logs the sentence."""

_PARTS = "its parts were made into graphs; change the checkpoint and export it, or use load_pretrained"
_WEIGHTS = (
    "weights are folded into the graphs; a LoRA is fused before: vcut-export --lora, or load_pretrained(…, loras=…)"
)
_ENGINES = "which engines are loaded together is what residency='resident' or 'staged' says"

REFUSED = {
    **dict.fromkeys(("unet", "vae", "image_encoder", "feature_extractor", "components"), _PARTS),
    **dict.fromkeys(("load_lora_weights", "fuse_lora", "set_adapters"), _WEIGHTS),
    "load_ip_adapter": "SVD is conditioned on its own picture; an IP-Adapter is not supported",
    "enable_vae_tiling": "tiles give other frames; vcut-export --decode-chunk 1 takes less memory",
    "enable_freeu": "FreeU gives other frames, and the graphs have none",
    "enable_group_offload": _ENGINES,
    "save_pretrained": "a bundle is a folder, copy it; diffusers' pipeline saves a checkpoint",
    "_guidance_scale": "guidance is chosen by the call: max_guidance_scale, and cut_step for where it ends",
    "num_timesteps": "it is known once a video has begun",
    "guidance_scale": "it is known once a video has begun",
    "do_classifier_free_guidance": "it is known once a video has begun",
}
"""What is not here, and what takes its place."""


class DiffusersHabits:
    """See the module."""

    _callback_tensor_inputs = ("latents",)  # what a callback may ask for, under diffusers' name

    precision: Precision
    _engines: EngineSet
    _lock: threading.RLock
    _is_running: bool
    _latest: Call | None = None  # the call that runs, or the last one
    _bar_options: dict[str, Any] | None = None  # None: no bar

    @property
    def device(self) -> torch.device:
        """Where the engines run."""
        return self._engines.workspace.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and activations."""
        return torch_dtype(self.precision.dtype)

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that runs, or of the last one."""
        return len(self._begun("num_timesteps").scheduler.timesteps)

    @property
    def guidance_scale(self) -> Tensor:
        """The scale of each frame, (V, F, 1, 1, 1), of the call that runs or the last one, whatever its cut."""
        return self._begun("guidance_scale").guidance_scale.to(self.device, self.dtype)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the call that runs, or the last one, is guided at all before its cut."""
        return self._begun("do_classifier_free_guidance").guidance is not None

    def set_progress_bar_config(self, **options: Any) -> None:
        """Show a bar of the denoising steps, from the next video on; without this, there is none.

        Args:
            options: tqdm's, as in diffusers: `disable=False` shows it, `disable=True` does not; `desc`, `leave` …
        """
        self._bar_options = options

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Load one stage's engines at a time, from now on: what `residency="staged"` is from the beginning.

        Raises:
            ConfigError: Another device is named than the pipeline's, or a callback calls this.
        """
        if gpu_id is not None:
            self.to(torch.device("cuda", gpu_id))
        if device is not None:
            self.to(device)
        with self._lock:  # after a video that another thread is making
            if self._is_running:
                raise ConfigError("engines cannot leave while they are at work; call this before the video")
            self._engines.go_staged()

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """As `enable_model_cpu_offload`: an engine's layers cannot come and go by themselves."""
        logger.warning(
            "engines are loaded whole: going on with one stage's at a time, as enable_model_cpu_offload does"
        )
        self.enable_model_cpu_offload(gpu_id, device)

    def to(
        self,
        *places: torch.device | torch.dtype | str | int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        silence_dtype_warnings: bool = False,  # diffusers has it
    ) -> Self:
        """This pipeline, where it is there already: engines stay where, and as, they were opened.

        Raises:
            ConfigError: It is elsewhere, or computes in another type; the message says how to open it there.
        """
        for place in (*places, device, dtype):
            if isinstance(place, torch.dtype):
                self._check_dtype(place)
            elif place is not None:
                self._check_device(place)
        return self

    @classmethod
    def from_pretrained(cls, *_arguments: Any, **_options: Any) -> NoReturn:
        """diffusers' way to open a checkpoint.

        Raises:
            NotOfferedError: Always; the message names the two ways to open one here.
        """
        raise NotOfferedError(
            "VCutPipeline.from_pretrained: a bundle is opened with VCutPipeline.from_bundle(folder), a checkpoint with "
            "vcut_trt.load_pretrained(model)"
        )

    def _begun(self, name: str) -> Call:
        if self._latest is None:
            raise NotOfferedError(f"{name}: {REFUSED[name]}")
        return self._latest

    def _check_dtype(self, dtype: torch.dtype) -> None:
        if dtype != self.dtype:
            known = {torch_dtype(precision.dtype): precision.value for precision in Precision}
            way = f"precision {known[dtype]!r}" if dtype in known else f"one of {', '.join(known.values())}"
            raise ConfigError(f"this pipeline computes in {self.dtype}, not {dtype}: export, or load, it with {way}")

    def _check_device(self, place: torch.device | str | int) -> None:
        try:
            asked = torch.device(place)
        except RuntimeError:
            raise ConfigError(f"{place!r} is no device; this pipeline is on {self.device}") from None
        if asked.type != self.device.type or asked.index not in (None, self.device.index):
            raise ConfigError(
                f"this pipeline is on {self.device} and stays there; open another with device={str(asked)!r}"
            )

    @contextmanager
    def _steps_told(self, steps: int) -> Iterator[Callable[[int], None]]:
        """What follows the steps of a video: a bar, where one was asked for."""
        if self._bar_options is None:
            yield lambda _index: None
            return
        from diffusers.utils.logging import tqdm

        with tqdm(total=steps, **self._bar_options) as bar:
            shown = not getattr(bar, "disable", True)
            yield StepReport(lambda _step: bar.update(), steps, self.device) if shown else lambda _index: None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but none that diffusers would read and this pipeline would not.

        Raises:
            NotOfferedError: With what takes its place.
        """
        if name in REFUSED:
            raise NotOfferedError(f"{type(self).__name__}.{name} cannot be set: {REFUSED[name]}")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # or every name would be an attribute to a type checker

        def __getattr__(self, name: str) -> Any:
            """What diffusers' pipeline has and this one has not.

            Raises:
                AttributeError: There is no such thing; NotOfferedError says what takes its place.
            """
            if name in SAID:
                return lambda *_arguments, **_options: logger.warning("%s: %s", name, SAID[name])
            if name in REFUSED:
                raise NotOfferedError(f"{type(self).__name__} has no {name}: {REFUSED[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
