"""The elbow of a curve: where more cost begins to buy little.

    xᵢ' = (xᵢ − x₁) / (xₙ − x₁)      yᵢ' = (yᵢ − y₁) / (yₙ − y₁)      elbow = argmax (yᵢ' − xᵢ')

The point that lies highest above the chord from the first to the last point, both axes scaled to 0 … 1 (Kneedle,
Satopää et al., 2011, without smoothing). A curve that falls is turned over by the scaling. There is no elbow where no
point rises above the chord by more than `SMALLEST_BEND`: a straight line, or one that bends the other way, where the
last bit of cost buys the most.
"""

from __future__ import annotations

from collections.abc import Mapping

SMALLEST_BEND = 0.05
"""Of the height of the curve; less is a straight line with noise on it."""


def elbow(curve: Mapping[int, float]) -> int | None:
    """The x at the elbow of y over x; None where there is none, or fewer than three points."""
    xs = sorted(curve)
    if len(xs) < 3 or curve[xs[0]] == curve[xs[-1]]:
        return None
    width, height = xs[-1] - xs[0], curve[xs[-1]] - curve[xs[0]]
    above = {x: (curve[x] - curve[xs[0]]) / height - (x - xs[0]) / width for x in xs}
    highest = max(xs, key=above.__getitem__)
    return highest if above[highest] > SMALLEST_BEND else None
