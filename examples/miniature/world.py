"""The miniature's world: videos of one moving thing, of which everything is known.

A dart flies where it points, to the right, down, left or up; a ball stays where it is and grows. The first frame, the
motion bucket and the frame rate decide every later frame:

    speed      v = 3 px/frame · bucket/127 · 7/fps        3 px a frame at SVD's usual bucket 127 and 7 fps
    dart       centre(t) = centre(0) + v · t · heading
    ball       radius(t) = radius(0) + 0.45 · v · t

Nothing ever leaves the frame. Drawing is deterministic: the same seed gives the same clip on every machine.

    clip = draw_clip(evaluation_seed(0))
    clip.frames            (8, 3, 64, 64) in [0, 1]
    clip.scene             what moves, how fast, where to; `clip.scene.centre(7)` is its place in the last frame
    clip.background        the same picture without the thing

`python -m examples.miniature.world PICTURE` draws a first frame to animate.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

HEIGHT, WIDTH = 64, 64  # pixels
FRAMES = 8
PIXELS_A_FRAME, USUAL_BUCKET, USUAL_FPS = 3.0, 127, 7
BUCKETS = (40, 180)  # motion_bucket_id of the scenes drawn, both ends included
FRAME_RATES = (6, 12)
GROWTH = 0.45  # pixels of radius for each pixel that a dart would fly
MARGIN = 2.0  # pixels that stay free at the frame's edges
EDGE = 1.2  # pixels over which an edge fades

TRAINING_SEEDS = range(10**9)
EVALUATION_SEEDS = range(10**9, 2 * 10**9)
"""Seeds of scenes. Training draws from the first range only, everything that is reported from the second."""

RGB = tuple[float, float, float]
PALETTE: dict[str, RGB] = {
    "red": (0.92, 0.25, 0.20),
    "orange": (0.98, 0.67, 0.12),
    "yellow": (0.96, 0.90, 0.24),
    "green": (0.27, 0.78, 0.31),
    "cyan": (0.24, 0.78, 0.90),
    "pink": (0.94, 0.43, 0.75),
}
GROUNDS: dict[str, RGB] = {
    "blue": (0.08, 0.12, 0.31),
    "green": (0.06, 0.24, 0.18),
    "purple": (0.24, 0.08, 0.27),
    "grey": (0.20, 0.22, 0.25),
}
EYE = 0.97  # the white of a dart's eye and of a ball's highlight


class Kind(Enum):
    """What moves. The value is the direction of a dart, (right, down)."""

    DART_RIGHT = (1, 0)
    DART_DOWN = (0, 1)
    DART_LEFT = (-1, 0)
    DART_UP = (0, -1)
    BALL = (0, 0)


KINDS = tuple(Kind)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides a clip. Lengths in pixels, x to the right and y down; colours in [0, 1]."""

    kind: Kind
    colour: str  # its name in PALETTE
    paint: RGB  # the colour as drawn: near the palette's
    start: tuple[float, float]  # centre (x, y) in frame 0
    radius: float  # in frame 0: of a dart, from its centre to its nose
    motion_bucket_id: int
    fps: int
    top: RGB  # the ground's colour above; it fades to `bottom`
    bottom: RGB
    tilt: float  # radians between the fade and the vertical

    @property
    def speed(self) -> float:
        """Pixels a frame."""
        return speed(self.motion_bucket_id, self.fps)

    def centre(self, frame: int) -> tuple[float, float]:
        """Where the thing is in a frame: (x, y), pixels."""
        (x, y), (right, down) = self.start, self.kind.value
        way = self.speed * frame
        return x + way * right, y + way * down

    def radius_at(self, frame: int) -> float:
        """How large the thing is in a frame: pixels."""
        return self.radius + (GROWTH * self.speed * frame if self.kind is Kind.BALL else 0.0)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video and what is true of it."""

    scene: Scene
    frames: Tensor  # (F, 3, H, W) in [0, 1]
    background: Tensor  # (3, H, W): the ground alone


def speed(motion_bucket_id: float, fps: float) -> float:
    """The law of motion: pixels a frame."""
    return PIXELS_A_FRAME * motion_bucket_id / USUAL_BUCKET * USUAL_FPS / fps


def training_seed(index: int) -> int:
    """The seed of training's scene number `index`."""
    return TRAINING_SEEDS[index]


def evaluation_seed(index: int) -> int:
    """The seed of an unseen scene. Five in a row show the five kinds."""
    return EVALUATION_SEEDS[index]


def draw_scene(seed: int, motion: tuple[int, int] | None = None) -> Scene:
    """A scene of the world; consecutive seeds take the kinds in turn.

    `motion`: the motion bucket and the frame rate, instead of drawn ones.
    """
    # Python's own generator: the only one whose numbers are promised to stay the same from version to version.
    rng = random.Random(seed)  # noqa: S311  # no secret
    kind = KINDS[seed % len(KINDS)]
    bucket, fps = rng.randint(*BUCKETS), rng.randint(*FRAME_RATES)
    if motion is not None:
        bucket, fps = motion
    colour, ground = rng.choice(sorted(PALETTE)), rng.choice(sorted(GROUNDS))
    radius = rng.uniform(6.5, 9.0) if kind is Kind.BALL else rng.uniform(10.0, 13.0)
    way = speed(bucket, fps) * (FRAMES - 1)
    room = radius + MARGIN + (GROWTH * way if kind is Kind.BALL else 0.0)
    right, down = kind.value
    lighter = rng.uniform(0.15, 0.25)
    top = _shifted(GROUNDS[ground], [rng.uniform(-0.025, 0.025) for _ in range(3)])
    return Scene(
        kind=kind,
        colour=colour,
        paint=_shifted(PALETTE[colour], [rng.uniform(-0.01, 0.01) for _ in range(3)]),
        start=(_place(rng, WIDTH, room, way * right), _place(rng, HEIGHT, room, way * down)),
        radius=radius,
        motion_bucket_id=bucket,
        fps=fps,
        top=top,
        bottom=_shifted(top, [lighter] * 3),
        tilt=rng.uniform(-0.2, 0.2),
    )


def draw_clip(scene: Scene | int, frames: int = FRAMES) -> Clip:
    """Draw a scene, or that of a seed: (F, 3, H, W) in [0, 1], and its ground truth."""
    if isinstance(scene, int):
        scene = draw_scene(scene)
    ground = _ground(scene)
    return Clip(scene=scene, frames=torch.stack([_draw(scene, t, ground) for t in range(frames)]), background=ground)


def draw_frame(scene: Scene, frame: int) -> Tensor:
    """One frame of a scene: (3, H, W) in [0, 1]."""
    return _draw(scene, frame, _ground(scene))


def to_image(frame: Tensor) -> Image.Image:
    """A frame (3, H, W) in [0, 1] as an RGB picture of 8 bits."""
    return Image.fromarray((frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def _place(rng: random.Random, extent: int, room: float, way: float) -> float:
    """A coordinate from which the thing, `room` large, can go `way` without leaving the frame."""
    lowest, highest = room + max(0.0, -way), extent - room - max(0.0, way)
    return rng.uniform(lowest, highest) if lowest < highest else (lowest + highest) / 2


def _shifted(colour: RGB, by: list[float]) -> RGB:
    red, green, blue = (min(1.0, max(0.0, value + shift)) for value, shift in zip(colour, by, strict=True))
    return red, green, blue


def _pixels() -> tuple[Tensor, Tensor]:
    """The x and y of the pixels' centres: (H, W) each."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return x, y


def _ground(scene: Scene) -> Tensor:
    x, y = _pixels()
    along = (math.sin(scene.tilt) * (x / WIDTH - 0.5) + math.cos(scene.tilt) * (y / HEIGHT - 0.5)) / 1.2 + 0.5
    top, bottom = (torch.tensor(colour)[:, None, None] for colour in (scene.top, scene.bottom))
    return torch.lerp(top.expand(3, HEIGHT, WIDTH), bottom.expand(3, HEIGHT, WIDTH), along.clamp(0, 1))


def _draw(scene: Scene, frame: int, ground: Tensor) -> Tensor:
    """The thing in its frame: a body, and a white eye that tells front from back."""
    x, y = _pixels()
    (centre_x, centre_y), radius = scene.centre(frame), scene.radius_at(frame)
    u, v = (x - centre_x) / radius, (y - centre_y) / radius
    right, down = scene.kind.value
    if scene.kind is Kind.BALL:
        body = torch.hypot(u, v) - 1
        eye = torch.hypot(u + 0.3, v + 0.3) - 0.28
    else:
        ahead, aside = u * right + v * down, (v * right - u * down).abs()
        sides = (aside - 0.55 * (1 - ahead)) / math.hypot(1, 0.55)  # from the nose, at 1, to the tips of the wings
        back = (-0.4 - 0.5 * aside - ahead) / math.hypot(1, 0.5)  # a notch between them
        body = torch.maximum(sides, back)
        eye = torch.hypot(ahead - 0.2, aside) - 0.22
    cover, white = ((0.5 - radius * distance / EDGE).clamp(0, 1) for distance in (body, eye))
    painted = torch.lerp(ground, torch.tensor(scene.paint)[:, None, None].expand_as(ground), cover)
    return torch.lerp(painted, torch.full_like(ground, EYE), white)


def main() -> None:
    """Write the first frame of an unseen scene to the path given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--number", type=int, default=0, help="which of the unseen scenes")
    options = parser.parse_args()
    to_image(draw_clip(evaluation_seed(options.number)).frames[0]).save(options.output)


if __name__ == "__main__":
    main()
