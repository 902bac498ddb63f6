"""The miniature, twice.

tiny                      trained: a small world of darts and balls, 8 frames of 64 × 64; its weights come with the
                          package. How they were made: `vcut_trt/data/miniature/README.md`
tiny --random-weights     every block type of SVD, all 16 + 16 cross-attentions and the 4 levels of the VAE at 1/10 of
                          their width; the same numbers on every run, and videos that show textures, not scenes
"""

from __future__ import annotations

from pathlib import Path

from vcut_trt.bundle.manifest import SourceRecord
from vcut_trt.checkpoints.folder import FolderCheckpoint
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, SCHEDULER, Architecture
from vcut_trt.checkpoints.weights import WeightChoice
from vcut_trt.spec.precision import Precision

NAME = "tiny"
TRAINED = Path(__file__).parents[1] / "data" / "miniature"
"""The trained weights, in diffusers' layout."""

TRAINED_HEIGHT, TRAINED_WIDTH = 64, 64  # pixels of the videos that it was trained on


class TrainedMiniature(FolderCheckpoint):
    """The trained miniature. See `Checkpoint`."""

    def __init__(self, choose: WeightChoice) -> None:
        super().__init__(TRAINED, model_id=NAME, revision=None, choose=choose)
        self.height, self.width = TRAINED_HEIGHT, TRAINED_WIDTH

    def sources(self) -> tuple[SourceRecord, ...]:
        """Its files. They come with the package, wherever that is installed."""
        (source,) = super().sources()
        return (source.model_copy(update={"place": NAME}),)


TINY = Architecture(
    unet={
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": (32, 64, 128, 128),
        "layers_per_block": 2,
        "num_attention_heads": (2, 4, 8, 8),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
        "num_frames": 8,
        "sample_size": 16,
    },
    vae={
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 128,
        "scaling_factor": 0.18215,
        "force_upcast": True,
    },
    image_encoder={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 32,
        "image_size": 224,
        "projection_dim": 64,
        "hidden_act": "gelu",
    },
    scheduler=SCHEDULER,
    feature_extractor=FEATURE_EXTRACTOR,
    height=128,
    width=192,
    default_precision=Precision.FP32,
)
