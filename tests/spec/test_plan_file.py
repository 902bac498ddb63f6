"""Plan files: what was written is read again, and what is no plan is refused with the reason."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.spec.test_step_plan import plans
from vcut_trt.errors import ConfigError
from vcut_trt.spec.plan_file import LARGEST_BYTES, PlanFile, read_plan, write_plan
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import StepPlan

PLAN = StepPlan(solver=Solver.AB2, sigmas=(700.0, 54.5, 1.0, 0.0), cut_step=3, shallow_steps=(2,))


@given(plans())
@settings(max_examples=50)
def test_what_is_written_is_read(plan: StepPlan) -> None:
    assert PlanFile.model_validate_json(PlanFile.of(plan).model_dump_json()).plan == plan


def test_a_file_is_read_with_its_note(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "plan.json", "found for three pictures")
    assert read_plan(tmp_path / "plan.json") == PLAN
    assert json.loads((tmp_path / "plan.json").read_text())["note"] == "found for three pictures"


CONTENT: dict[str, Any] = PlanFile.of(PLAN).model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "a-recipe"}, "format: "),
        ({"version": 2}, "version: "),
        ({"solver": "heun"}, "solver: .*'euler', 'ab2'"),
        ({"sigmas": []}, "sigmas: "),
        ({"sigmas": [1.0] * 2000}, "sigmas: .*at most 1001"),
        ({"sigmas": ["700", 0]}, "sigmas.0: "),
        ({"sigmas": [700, -1, 0]}, "sigmas.1: "),
        ({"sigmas": [700, 700, 1, 0]}, "do not fall"),
        ({"cut_step": 2.5}, "cut_step: "),
        ({"cut_step": 9}, "cut_step is 9; with 3 steps"),
        ({"cut_step": True}, "cut_step: "),
        ({"shallow_steps": [1]}, "step 1 cannot be shallow"),
        ({"shallow_steps": [2, 2]}, "name each once"),
        ({"shallow_steps": 2}, "shallow_steps: "),
        ({"after_cut": "nothing"}, "after_cut: "),
        ({"coefficients": [1]}, "coefficients: Extra"),
        ({"note": "x" * 3000}, "note: "),
    ],
)
def test_what_is_no_plan_is_refused_with_the_place(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**CONTENT, **changes}))
    with pytest.raises(ConfigError, match=reason):
        read_plan(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"sigmas": [NaN, 0]}', b'{"sigmas": [1e999, 0]}'],
)
def test_what_is_not_even_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ConfigError, match="holds no plan"):
        read_plan(tmp_path / "plan.json")


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        read_plan(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match="cannot read"):
        read_plan(tmp_path)
    (tmp_path / "long.json").write_bytes(b" " * (LARGEST_BYTES + 1))
    with pytest.raises(ConfigError, match="more than .* bytes and is no plan"):
        read_plan(tmp_path / "long.json")
    with pytest.raises(ConfigError, match="cannot write"):
        write_plan(PLAN, tmp_path / "no folder" / "plan.json")
    assert not list(tmp_path.glob("*.part"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=10,
)


@given(st.sampled_from(sorted(CONTENT)), JSON)
def test_whatever_stands_in_a_field_it_is_a_plan_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-plan.json"
    path.write_text(json.dumps({**CONTENT, field: value}))
    with contextlib.suppress(ConfigError):  # and nothing else
        assert isinstance(read_plan(path), StepPlan)
