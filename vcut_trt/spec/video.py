"""The size of what one call makes: V videos of F frames, H × W pixels, latents of H/8 × W/8."""

from __future__ import annotations

from dataclasses import dataclass

from vcut_trt.errors import ConfigError

LATENT_CHANNELS = 4
VAE_SCALE = 8  # pixels per latent, each way
SIZE_MULTIPLE = 64  # the VAE divides by 8, the UNet's three down-samplings by 8 again
LARGEST_DEFAULT_CHUNK = 8  # frames: what diffusers' pages decode at a time; all of 25 would take some 23 GB of scratch


def default_decode_chunk(frames: int) -> int:
    """Up to 8: a video of 25 frames is decoded as 8 + 8 + 8 + 1, one of 14 as 8 + 6, one of 6 at once."""
    return min(frames, LARGEST_DEFAULT_CHUNK)


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """The size of what one call makes.

    Raises:
        ConfigError: A size is out of range; the message names it.
    """

    videos: int
    frames: int
    height: int  # pixels
    width: int  # pixels
    decode_chunk: int  # frames decoded at a time; the last chunk of a video holds what is left

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise ConfigError(f"videos is {self.videos}; it must be at least 1")
        if self.frames < 1:
            raise ConfigError(f"frames is {self.frames}; it must be at least 1")
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels < SIZE_MULTIPLE or pixels % SIZE_MULTIPLE:
                nearest = max(SIZE_MULTIPLE, round(pixels / SIZE_MULTIPLE) * SIZE_MULTIPLE)
                raise ConfigError(f"{name} is {pixels}; it must be a multiple of {SIZE_MULTIPLE}: try {nearest}")
        if not 1 <= self.decode_chunk <= self.frames:
            raise ConfigError(f"decode chunk is {self.decode_chunk}; with {self.frames} frames, use 1 … {self.frames}")

    @property
    def last_chunk(self) -> int:
        """Frames of a last chunk that is shorter than the others; 0 where there is none."""
        return self.frames % self.decode_chunk

    @property
    def latent_height(self) -> int:
        """Rows of the latents."""
        return self.height // VAE_SCALE

    @property
    def latent_width(self) -> int:
        """Columns of the latents."""
        return self.width // VAE_SCALE
