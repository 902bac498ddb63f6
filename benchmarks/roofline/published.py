"""Latencies that others have published for 25 steps at 576×1024, as literals: what the roofline is held against.

Left out: figures whose card is not stated, and those of DeepCache, which skips work that the roofline counts. That the
paper's latencies are for 25 steps, on PyTorch and in fp16, is inferred (see benchmarks.published).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.macs import Variant
from benchmarks.published import PUBLISHED, UNCUT

PAPER = "the VCUT paper"
TABLE_3, TABLE_4 = f"{PAPER}, Table III", f"{PAPER}, Table IV"
ONEDIFF = "OneDiff's README, https://github.com/siliconflow/onediff"
TENSORRT_DEMO = "model card of NVIDIA's TensorRT demo, https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt-1-1-tensorrt"


@dataclass(frozen=True, kw_only=True)
class PublishedLatency:
    """One video on one card, as somebody else measured it."""

    card: str
    stack: str
    model: str
    cut_step: int
    latency_s: float
    source: str

    @property
    def variant(self) -> Variant:
        """The UNet that we take it for: the paper's own when the video is cut."""
        return Variant.STOCK if self.cut_step == UNCUT else Variant.FOLDED_PAPER


def _paper(model: str, cut_step: int) -> PublishedLatency:
    latency_s = PUBLISHED[model].latency_s[cut_step]
    source = TABLE_4 if cut_step == 10 else TABLE_3
    return PublishedLatency(
        card="A10", stack="paper", model=model, cut_step=cut_step, latency_s=latency_s, source=source
    )


def _stock(card: str, stack: str, model: str, latency_s: float, source: str) -> PublishedLatency:
    return PublishedLatency(card=card, stack=stack, model=model, cut_step=UNCUT, latency_s=latency_s, source=source)


CALIBRATION = _paper("svd-xt", UNCUT)
"""The one figure that the efficiency is fitted to."""

LATENCIES = (
    CALIBRATION,
    *(_paper("svd-xt", cut_step) for cut_step in (20, 17, 10)),
    *(_paper(model, cut_step) for model in ("svd-xt-1.1", "svd") for cut_step in (UNCUT, 20, 17, 10)),
    _stock("A100 SXM 80 GB", "PyTorch 2.2", "svd-xt", 39.9, ONEDIFF),
    _stock("A100 SXM 80 GB", "OneDiff", "svd-xt", 25.2, ONEDIFF),
    _stock("A100 SXM 80 GB", "TensorRT demo", "svd-xt-1.1", 32.16641, TENSORRT_DEMO),
    _stock("A100 PCIe 80 GB", "TensorRT demo", "svd-xt-1.1", 35.25838, TENSORRT_DEMO),
    _stock("H100 PCIe", "TensorRT demo", "svd-xt-1.1", 22.64473, TENSORRT_DEMO),
)
