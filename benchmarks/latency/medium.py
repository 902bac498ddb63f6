"""The medium model: SVD's architecture at a tenth of its width, with SVD's 14 frames, small around the UNet.

Block types, layers and all 16 + 16 cross-attentions are SVD's; a small VAE and CLIP leave the UNet nine tenths of the
work, as at full size. Its picture is as large as lets the whole table run on two CPU cores in a quarter of an hour.
"""

from __future__ import annotations

from dataclasses import replace

from vcut_trt.checkpoints.tiny import TINY

MEDIUM = replace(
    TINY,
    unet={**TINY.unet, "num_frames": 14},
    vae={**TINY.vae, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    height=128,
    width=192,
)
