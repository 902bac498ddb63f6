"""Scores of frames of which we know what they are worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.miniature.scores import correlation, follow, interval, score, summary
from examples.miniature.world import PALETTE, Clip, Kind, draw_clip, draw_scene, evaluation_seed

CLIPS = [draw_clip(evaluation_seed(index)) for index in range(5)]
DARTS = [clip for clip in CLIPS if clip.scene.kind is not Kind.BALL]


def name(clip: Clip) -> str:
    return clip.scene.kind.name


@pytest.mark.parametrize("clip", CLIPS, ids=name)
def test_the_truth_is_worth_everything(clip: Clip) -> None:
    found = score(clip, clip.frames)
    assert found.position_error_px == (0.0,) * 8
    assert (found.shape_iou, found.speed_ratio) == (1.0, 1.0)
    assert found.psnr_db == found.background_psnr_db == 120
    assert found.speed_px == pytest.approx(clip.scene.speed, rel=0.12)  # a ball's edge is found a little inside
    assert found.shape_kept
    assert found.colour_kept
    assert found.right_way


@pytest.mark.parametrize("clip", DARTS, ids=name)
def test_a_still_clip_is_off_by_the_way_that_was_not_flown(clip: Clip) -> None:
    found = score(clip, clip.frames[:1].expand_as(clip.frames))
    assert found.position_error_px == pytest.approx([clip.scene.speed * frame for frame in range(8)], abs=0.2)
    assert found.speed_ratio == pytest.approx(0, abs=1e-3)
    assert not found.right_way
    assert found.shape_kept
    assert found.colour_kept
    assert found.background_psnr_db == 120


def test_a_ball_that_does_not_grow_goes_the_wrong_way() -> None:
    clip = CLIPS[4]
    found = score(clip, clip.frames[:1].expand_as(clip.frames))
    assert not found.right_way
    assert found.speed_ratio == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("clip", DARTS, ids=name)
def test_a_dart_that_flies_backwards_or_aside_goes_the_wrong_way(clip: Clip) -> None:
    backwards = score(clip, clip.frames.flip(0))
    assert backwards.speed_ratio == pytest.approx(-1, abs=0.05)
    assert not backwards.right_way
    scene = replace(clip.scene, start=(32.0, 32.0), motion_bucket_id=60, fps=7)
    for kind in DARTS:
        if kind.scene.kind is not scene.kind:
            aside = draw_clip(replace(scene, kind=kind.scene.kind))
            assert not score(draw_clip(scene), aside.frames).right_way


def test_another_colour_is_no_kept_colour() -> None:
    clip = CLIPS[0]
    other = next(colour for colour in PALETTE if colour != clip.scene.colour)
    found = score(clip, draw_clip(replace(clip.scene, paint=PALETTE[other])).frames)
    assert not found.colour_kept
    assert found.shape_kept
    assert found.colour_distance > 0.15
    assert max(found.position_error_px) < 0.2


def test_another_shape_is_no_kept_shape() -> None:
    clip = CLIPS[0]
    where = clip.scene.centre(7)
    ball = replace(clip.scene, kind=Kind.BALL, start=where, radius=16.0, motion_bucket_id=1, fps=100)
    found = score(clip, draw_clip(ball).frames)
    assert found.shape_iou < 0.5
    assert not found.shape_kept
    assert found.colour_kept


def test_a_thing_that_vanishes_is_kept_in_nothing() -> None:
    clip = CLIPS[0]
    found = score(clip, clip.background.expand_as(clip.frames))
    assert not found.shape_kept
    assert not found.colour_kept
    x, y = follow(clip.frames, clip.background).centre[-1].tolist()
    assert found.position_error_px[-1] == pytest.approx(((x - 32) ** 2 + (y - 32) ** 2) ** 0.5, abs=1e-3)


def test_psnr_of_a_shifted_ground() -> None:
    """0.1 lighter everywhere: 20 dB."""
    clip = CLIPS[0]
    found = score(clip, clip.frames + 0.1)
    assert found.background_psnr_db == pytest.approx(20, abs=0.01)
    assert found.psnr_db == pytest.approx(20, abs=0.01)
    assert max(found.position_error_px) < 0.7


def test_the_ground_beside_the_thing_alone_counts() -> None:
    clip = CLIPS[0]
    other = draw_clip(replace(clip.scene, paint=(0.0, 0.0, 0.0)))
    assert score(clip, other.frames).background_psnr_db == 120
    assert score(clip, other.frames).psnr_db < 30


def test_intervals_and_correlation() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half_width == pytest.approx(1.96 * 1.2909944 / 2)
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [6, 4, 2]) == pytest.approx(-1)
    shares = summary([score(clip, clip.frames) for clip in CLIPS])
    assert shares["shape_kept"].mean == 1
    assert shares["last_position_error_px"].mean == 0


def test_a_scene_takes_the_motion_that_it_is_given() -> None:
    seed = evaluation_seed(7)
    drawn, told = draw_scene(seed), draw_scene(seed, (180, 6))
    assert (told.motion_bucket_id, told.fps) == (180, 6)
    assert (told.kind, told.colour, told.radius) == (drawn.kind, drawn.colour, drawn.radius)
