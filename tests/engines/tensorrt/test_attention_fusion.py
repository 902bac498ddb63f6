from __future__ import annotations

from vcut_trt.engines.tensorrt.attention_fusion import AttentionScores, why_out_of_memory

SCORES = AttentionScores(layer="softmax", shape=(50, 5, 9216, 9216), nbytes=50 * 5 * 9216**2 * 4)
LOG = ["[I] parsing", "[E] Error Code 2: OutOfMemory (Requested size was 71568702384 bytes.)"]


def test_a_builder_that_wanted_room_for_scores_is_told_apart() -> None:
    reason = why_out_of_memory((SCORES,), LOG)
    assert reason is not None
    assert "71,568,702,384 bytes" in reason
    assert "softmax" in reason


def test_a_builder_that_wanted_less_or_nothing_is_not_blamed_on_attention() -> None:
    assert why_out_of_memory((SCORES,), ["OutOfMemory (Requested size was 4000000000 bytes.)"]) is None
    assert why_out_of_memory((SCORES,), ["[E] some other failure"]) is None
    assert why_out_of_memory((), LOG) is None
