"""The size of what one call makes: V videos of F frames, H × W pixels, latents of H/8 × W/8."""

from __future__ import annotations

from dataclasses import dataclass

from vcut_trt.errors import ConfigError

LATENT_CHANNELS = 4
VAE_SCALE = 8  # pixels per latent, each way
SIZE_MULTIPLE = 64  # the VAE divides by 8, the UNet's three down-samplings by 8 again
LARGEST_DEFAULT_CHUNK = 8  # frames


def default_decode_chunk(frames: int) -> int:
    """The largest divisor of `frames` up to 8: 14 → 7, 25 → 5."""
    return max(n for n in range(1, LARGEST_DEFAULT_CHUNK + 1) if frames % n == 0)


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
    decode_chunk: int  # frames decoded at a time, a divisor of `frames`

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise ConfigError(f"videos is {self.videos}; it must be at least 1")
        if self.frames < 1:
            raise ConfigError(f"frames is {self.frames}; it must be at least 1")
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels < SIZE_MULTIPLE or pixels % SIZE_MULTIPLE:
                nearest = max(SIZE_MULTIPLE, round(pixels / SIZE_MULTIPLE) * SIZE_MULTIPLE)
                raise ConfigError(f"{name} is {pixels}; it must be a multiple of {SIZE_MULTIPLE}: try {nearest}")
        if self.decode_chunk < 1 or self.frames % self.decode_chunk:
            divisors = ", ".join(str(n) for n in range(1, self.frames + 1) if self.frames % n == 0)
            raise ConfigError(f"decode chunk {self.decode_chunk} does not divide {self.frames} frames; use {divisors}")

    @property
    def latent_height(self) -> int:
        """Rows of the latents."""
        return self.height // VAE_SCALE

    @property
    def latent_width(self) -> int:
        """Columns of the latents."""
        return self.width // VAE_SCALE
