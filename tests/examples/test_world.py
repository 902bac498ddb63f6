"""The miniature's world: the same clips everywhere, and a ground truth that agrees with the pixels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.miniature import world
from examples.miniature.world import (
    BUCKETS,
    EVALUATION_SEEDS,
    FRAME_RATES,
    FRAMES,
    GROWTH,
    HEIGHT,
    KINDS,
    TRAINING_SEEDS,
    WIDTH,
    Kind,
    Scene,
    draw_clip,
    draw_frame,
    draw_scene,
    evaluation_seed,
    speed,
    training_seed,
)

SCENES = [draw_scene(evaluation_seed(index)) for index in range(60)]


def covered(scene: Scene) -> np.ndarray:
    """How much of each pixel the thing covers, (F, H, W): its colour on the way from the ground's to the paint's."""
    clip = draw_clip(scene)
    way = np.array(scene.paint)[:, None, None] - clip.background.numpy()
    gone = ((clip.frames - clip.background).numpy() * way).sum(axis=1) / (way**2).sum(axis=0)
    return np.clip(gone, 0, 1)


def box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a mask (H, W), to a fraction of a pixel: the last row and column count partly."""
    columns, rows = mask.max(axis=0), mask.max(axis=1)
    (xs,), (ys,) = np.nonzero(columns > 0.5), np.nonzero(rows > 0.5)
    return float(xs[0]), float(xs[-1] + 1), float(ys[0]), float(ys[-1] + 1)


def test_the_same_seed_draws_the_same_clip() -> None:
    seed = evaluation_seed(3)
    first, second = draw_clip(seed), draw_clip(draw_scene(seed))
    assert first.scene == second.scene
    assert first.frames.equal(second.frames)
    assert not first.frames.equal(draw_clip(evaluation_seed(4)).frames)
    assert first.frames.shape == (FRAMES, 3, HEIGHT, WIDTH)
    assert float(first.frames.min()) >= 0
    assert float(first.frames.max()) <= 1


def test_scenes_are_the_same_on_every_machine() -> None:
    """A change of the law or of the order of draws is a change of every figure that was reported."""
    told = hashlib.sha256(repr(SCENES).encode()).hexdigest()
    assert told[:16] == "f43ae2e8261418d5"


def test_a_frame_alone_is_that_of_the_clip() -> None:
    scene = SCENES[4]
    assert draw_frame(scene, 5).equal(draw_clip(scene).frames[5])


@pytest.mark.parametrize("index", range(10))
def test_pixels_move_as_the_ground_truth_says(index: int) -> None:
    """Measured at the middle of what differs from the ground, which is a fixed distance from the centre."""
    scene = SCENES[index]
    masks = covered(scene)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    places = np.array([[(m * x).sum() / m.sum(), (m * y).sum() / m.sum()] for m in masks])
    told = np.array([scene.centre(frame) for frame in range(FRAMES)])
    np.testing.assert_allclose(places - places[0], told - told[0], atol=0.12)
    assert np.abs(places - told).max() < 0.35 * scene.radius  # a dart's middle is not its centre
    if scene.kind is Kind.BALL:
        np.testing.assert_allclose(np.sqrt(masks.sum(axis=(1, 2)) / np.pi), [*map(scene.radius_at, range(8))], atol=0.5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_dart_points_where_it_flies(kind: Kind) -> None:
    """Its wings, the heavy half of its box, are behind. A ball has no such half."""
    scene = replace(SCENES[0], kind=kind, start=(32.0, 32.0), radius=12.0)
    mask = covered(scene)[0]
    left, right, top, bottom = box(mask)
    column = mask[:, : int((left + right) / 2)].sum() - mask[:, int((left + right) / 2) :].sum()
    row = mask[: int((top + bottom) / 2)].sum() - mask[int((top + bottom) / 2) :].sum()
    heavier = np.array([column, row]) / mask.sum()  # positive: more of it to the left, above
    np.testing.assert_allclose(np.sign(np.where(np.abs(heavier) > 0.15, heavier, 0)), kind.value)


@pytest.mark.parametrize("index", range(len(SCENES)))
def test_nothing_leaves_the_frame(index: int) -> None:
    masks = covered(SCENES[index])
    for edge in (masks[:, [0, -1], :], masks[:, :, [0, -1]]):
        assert edge.max() < 0.2  # the tip of a wing fades over the outermost pixels


def test_the_law_of_motion() -> None:
    assert speed(127, 7) == 3.0
    assert speed(254, 7) == 6.0
    assert speed(127, 14) == 1.5
    ball = replace(SCENES[4], motion_bucket_id=127, fps=7)
    assert ball.kind is Kind.BALL
    assert ball.centre(7) == ball.start
    assert ball.radius_at(7) == pytest.approx(ball.radius + GROWTH * 21)
    dart = replace(SCENES[2], motion_bucket_id=127, fps=7)
    assert dart.kind is Kind.DART_LEFT
    assert dart.centre(7) == pytest.approx((dart.start[0] - 21, dart.start[1]))
    assert dart.radius_at(7) == dart.radius


def test_scenes_fill_their_world() -> None:
    assert [scene.kind for scene in SCENES[:5]] == [*KINDS]
    assert {scene.colour for scene in SCENES} == {*world.PALETTE}
    assert {scene.fps for scene in SCENES} == {*range(FRAME_RATES[0], FRAME_RATES[1] + 1)}
    buckets = [scene.motion_bucket_id for scene in SCENES]
    assert BUCKETS[0] <= min(buckets) < 60
    assert 160 < max(buckets) <= BUCKETS[1]


def test_training_never_draws_what_evaluation_draws() -> None:
    assert not {*TRAINING_SEEDS[:1], TRAINING_SEEDS[-1]} & {*EVALUATION_SEEDS[:1], EVALUATION_SEEDS[-1]}
    assert TRAINING_SEEDS[-1] < EVALUATION_SEEDS[0]
    assert training_seed(5) in TRAINING_SEEDS
    assert evaluation_seed(5) in EVALUATION_SEEDS
    for draw, seeds in ((training_seed, TRAINING_SEEDS), (evaluation_seed, EVALUATION_SEEDS)):
        with pytest.raises(IndexError):
            draw(len(seeds))


def test_the_command_writes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "picture.png"
    monkeypatch.setattr("sys.argv", ["world", str(picture), "--number", "2"])
    world.main()
    drawn = np.asarray(Image.open(picture).convert("RGB"), dtype=np.float64) / 255
    truth = draw_clip(evaluation_seed(2)).frames[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(drawn, truth, atol=0.5 / 255 + 1e-6)
