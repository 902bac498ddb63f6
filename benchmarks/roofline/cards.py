"""The cards of the roofline: what their data sheets promise, and where.

    dense peak = multiprocessors · fp16 multiply-adds per clock · 2 · boost clock
    A10          72 · 512 · 2 · 1.695 GHz = 125 TFLOP/s

Data sheets print the tensor rates of Ada and Hopper with 2:4 sparsity, which is twice the dense rate; nothing here is
sparse. All these cards accumulate fp16 products in fp32 at the full rate (GeForce cards of the A10's chip do so at half
of it). A peak holds at the boost clock: a card that hits its power limit first, as the L4 does at 72 W, stays below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NVIDIA = "https://www.nvidia.com"
DATASHEETS = f"{NVIDIA}/content/dam/en-zz/Solutions/Data-Center"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One card. Rates are peaks, in decimal units as in the data sheets."""

    name: str
    dense_fp16_tflops: float  # tensor cores, fp32 accumulation, without sparsity
    bandwidth_gb_per_s: float
    memory_gb: int
    source: str
    printed: str  # how the source gives the tensor rate

    @property
    def flops_per_s(self) -> float:
        """Peak FLOP/s."""
        return self.dense_fp16_tflops * 1e12

    @property
    def bytes_per_s(self) -> float:
        """Peak memory bandwidth."""
        return self.bandwidth_gb_per_s * 1e9


def _card(name: str, tflops: float, bandwidth: float, memory: int, source: str, printed: str) -> Card:
    return Card(
        name=name,
        dense_fp16_tflops=tflops,
        bandwidth_gb_per_s=bandwidth,
        memory_gb=memory,
        source=source,
        printed=printed,
    )


_A10 = f"NVIDIA A10 data sheet, {DATASHEETS}/a10/pdf/datasheet-new/nvidia-a10-datasheet.pdf"
_L4 = f"NVIDIA L4 product page, {NVIDIA}/en-us/data-center/l4/"
_L40S = f"NVIDIA L40S product page, {NVIDIA}/en-us/data-center/l40s/"
_A100 = f"NVIDIA A100 data sheet, {DATASHEETS}/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_A100_40 = "NVIDIA A100 data sheet of 2020 (40 GB); the PCIe and the SXM card have the same peaks"
_H100 = f"NVIDIA H100 product page, {NVIDIA}/en-us/data-center/h100/"
_H100_PCIE = "NVIDIA H100 data sheet of 2022 to 2023 (SXM and PCIe)"
_H200 = f"NVIDIA H200 product page, {NVIDIA}/en-us/data-center/h200/"

CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        _card("A10", 125, 600, 24, _A10, "125 TF dense, 250 TF with sparsity"),
        _card("L4", 121, 300, 24, _L4, "242 TFLOPS with sparsity"),
        _card("L40S", 362, 864, 48, _L40S, "362.05 dense, 733 TFLOPS with sparsity"),
        _card("A100 40 GB", 312, 1555, 40, _A100_40, "312 TF dense, 624 TF with sparsity"),
        _card("A100 PCIe 80 GB", 312, 1935, 80, _A100, "312 TFLOPS dense, 624 with sparsity"),
        _card("A100 SXM 80 GB", 312, 2039, 80, _A100, "312 TFLOPS dense, 624 with sparsity"),
        _card("H100 PCIe", 756, 2000, 80, _H100_PCIE, "1,513 TFLOPS with sparsity"),
        _card("H100 SXM", 989, 3350, 80, _H100, "1,979 TFLOPS with sparsity"),
        _card("H200 SXM", 989, 4800, 141, _H200, "1,979 TFLOPS with sparsity"),
    )
}
