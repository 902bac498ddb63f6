"""Whether a server runs its engines before it says that it is ready."""

from __future__ import annotations

from enum import Enum


class WarmUp(str, Enum):
    """`--warm-up`."""

    AUTO = "auto"  # on a GPU: there kernels are compiled, memory is allocated and graphs are captured late
    ALWAYS = "always"
    NEVER = "never"

    def is_wanted(self, device_type: str) -> bool:
        """Whether to warm up on such a device. On the CPU nothing is left to a first video but its own work."""
        return self is WarmUp.ALWAYS or (self is WarmUp.AUTO and device_type == "cuda")
