"""CLIP's and DINO's image encoders: pictures in, one unit vector each out. Weights are read from safetensors only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vcut_trt.errors import VcutError
from vcut_trt.work.quiet import quiet_transformers

Encoder = Callable[[Sequence[Image.Image]], Tensor]
"""n pictures → (n, channels), fp32, each row of length 1."""


class EncoderError(VcutError):
    """An encoder's weights are missing, or are of another kind."""


class Family(str, Enum):
    """Whose embedding is meant."""

    CLIP = "CLIP"  # the projected image embedding, as SVD is given
    DINO = "DINO"  # the class token after the last norm


MODEL_TYPES = {
    Family.CLIP: ("clip", "clip_vision_model"),
    Family.DINO: ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit"),
}
EXAMPLES = {Family.CLIP: "openai/clip-vit-large-patch14", Family.DINO: "facebook/dinov2-large"}


def load_encoder(family: Family, model: str) -> Encoder:
    """Load an encoder.

    Args:
        family: Whose it must be.
        model: A folder with `config.json`, `preprocessor_config.json` and safetensors; or a hub id.

    Raises:
        EncoderError: Something of that is missing, or it is another kind of model.
    """
    with _our_errors(family, model), quiet_transformers():
        from transformers import AutoConfig, AutoImageProcessor

        _check_type(family, model, AutoConfig.from_pretrained(model).model_type)
        processor = AutoImageProcessor.from_pretrained(model)
        network, loading = _network_class(family).from_pretrained(
            model, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    absent = [name for name in loading["missing_keys"] if not name.startswith("pooler.")]
    if absent:
        raise EncoderError(f"{model} lacks weights, such as {min(absent)}. {_fetch(family)}")
    network.eval()

    @torch.inference_mode()
    def encode(pictures: Sequence[Image.Image]) -> Tensor:
        with _our_errors(family, model):
            output = network(pixel_values=processor(list(pictures), return_tensors="pt")["pixel_values"])
        embedding = output.image_embeds if family is Family.CLIP else output.last_hidden_state[:, 0]
        return torch.nn.functional.normalize(embedding, dim=-1)

    return encode


@contextmanager
def _our_errors(family: Family, model: str) -> Iterator[None]:
    """Turn into one of ours whatever transformers raises: a damaged configuration leads to almost anything."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise EncoderError(f"cannot use {model} as {family.value}: {reason}. {_fetch(family)}") from error


def _check_type(family: Family, model: str, found: str) -> None:
    if found not in MODEL_TYPES[family]:
        known = ", ".join(MODEL_TYPES[family])
        raise EncoderError(f"{model} is a model of type {found!r}; {family.value} is one of {known}")


def _network_class(family: Family) -> Any:
    from transformers import AutoModel, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection if family is Family.CLIP else AutoModel


def _fetch(family: Family) -> str:
    return (
        f"Fetch an encoder with `hf download {EXAMPLES[family]}` and pass that id, or pass a folder with config.json, "
        "preprocessor_config.json and model.safetensors (no .bin)."
    )
