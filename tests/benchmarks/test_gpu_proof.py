"""The proof on a card: stages that fail do not hide others, the report is there whatever happens, and tells nobody."""

from __future__ import annotations

import getpass
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_proof import run, scrub
from benchmarks.gpu_proof.catalogue import STAGES, Stage
from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.outcome import Outcome, State
from benchmarks.gpu_proof.report import JSON, MARKDOWN, Report
from benchmarks.gpu_proof.roofline import beside, whole_video
from benchmarks.gpu_proof.run import ProcessLaunch, StageTimeoutError, forget, prove
from benchmarks.gpu_proof.site import CUDA_NAMES
from benchmarks.roofline.cards import CARDS
from vcut_trt.engines.tensorrt.module import FlavourChoice
from vcut_trt.errors import ConfigError

NAMES = [stage.name for stage in STAGES]
MACHINE = {
    "system": "Linux",
    "architecture": "x86_64",
    "processor": "CPU",
    "cores": 2,
    "gpu": {"name": "NVIDIA A10", "compute_capability": "8.6", "memory_bytes": 24 << 30},
    "driver": "580.65.06",
    "driver_cuda": "13.0",
    "torch_cuda": "13.0",
    "versions": {"python": "3.11"},
}


@pytest.fixture
def config(tmp_path: Path) -> ProofConfig:
    return ProofConfig(folder=tmp_path / "gpu", dry=False, steps=5, tensorrt=FlavourChoice.AUTO)


class Launched:
    """Runs nothing, and passes what is not told otherwise; writes outcomes down as a stage's process does."""

    def __init__(self, config: ProofConfig, **states: State | BaseException) -> None:
        self.names: list[str] = []
        self._folder, self._patience = config.folder / run.OUTCOMES, config.patience
        self._states = {name.replace("_", "-"): state for name, state in states.items()}
        self.machine = MACHINE

    def __call__(self, stage: Stage, seconds: float) -> Outcome:
        assert 0 < seconds <= 60 * stage.limit_minutes * self._patience
        self.names.append(stage.name)
        state = self._states.get(stage.name, State.PASSED)
        if isinstance(state, BaseException):
            raise state
        figures = self.machine if stage.name == "machine" else {}
        reason = "" if state is State.PASSED else f"{stage.name} says why"
        outcome = Outcome(stage=stage.name, title=stage.title, state=state, seconds=1, reason=reason, figures=figures)
        (self._folder / f"{stage.name}.json").write_text(outcome.model_dump_json())
        return outcome


def proved(config: ProofConfig, launch: run.Launch, minutes: float = 15) -> dict[str, Outcome]:
    report = prove(config, minutes, launch, lambda _outcome: None)
    return {outcome.stage: outcome for outcome in report.outcomes}


def written(config: ProofConfig) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((config.folder / JSON).read_text(encoding="utf-8"))
    assert (config.folder / MARKDOWN).read_text(encoding="utf-8").startswith("# vcut_trt")
    return answer


def states(config: ProofConfig) -> dict[str, str]:
    return {item["stage"]: item["state"] for item in written(config)["outcomes"]}


def test_every_stage_is_run_once_in_its_order_after_what_it_needs(config: ProofConfig) -> None:
    launch = Launched(config)
    assert {outcome.state for outcome in proved(config, launch).values()} == {State.PASSED}
    assert launch.names == NAMES
    for stage in STAGES:
        assert set(stage.needs) <= set(NAMES[: NAMES.index(stage.name)])
    assert "vcut_trt on NVIDIA A10: 14 of 14 stages passed" in (config.folder / MARKDOWN).read_text(encoding="utf-8")


def test_a_stage_that_fails_hides_none_but_those_that_need_it(config: ProofConfig) -> None:
    outcomes = proved(config, Launched(config, graphs=State.FAILED, full=State.FAILED, kernels_compiled=State.SKIPPED))
    not_run = {name for name, outcome in outcomes.items() if outcome.state is State.NOT_RUN}
    assert not_run == {stage.name for stage in STAGES if "full" in stage.needs}
    assert outcomes["latency"].reason == "it needs the stage full, which has failed"
    assert (outcomes["kernels-loaded"].state, outcomes["kernels-loaded"].reason) == (
        State.SKIPPED,
        "kernels-compiled says why",
    )
    assert outcomes["steps"].state is State.PASSED
    assert "- **graphs, failed**: graphs says why\n" in (config.folder / MARKDOWN).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("state", "holds"), [(State.PASSED, True), (State.SKIPPED, True), (State.FAILED, False), (State.NOT_RUN, False)]
)
def test_only_what_does_not_apply_may_be_missing(state: State, holds: bool, config: ProofConfig) -> None:
    report = prove(config, 15, Launched(config, bench=state), lambda _outcome: None)
    assert report.proved is holds


def test_the_page_of_a_dry_run_says_what_each_line_does_not_prove(config: ProofConfig) -> None:
    class Doubts(Launched):
        def __call__(self, stage: Stage, seconds: float) -> Outcome:
            doubts = (f"{stage.name} on a card",)
            return super().__call__(stage, seconds).model_copy(update={"not_proved": doubts, "messages": ("hm",)})

    dry = ProofConfig(folder=config.folder, dry=True, steps=5, tensorrt=FlavourChoice.AUTO)
    launch = Doubts(dry)
    launch.machine = {**MACHINE, "gpu": None}
    page = written_page(dry, launch)
    assert page.startswith("# vcut_trt, a dry run without a card: 14 of 14 stages passed\n")
    for stage in STAGES:
        assert f"| {stage.name} | {stage.title} | passed | {stage.name} on a card | 1 |" in page
        assert f"- **{stage.name}**, a warning: hm" in page


def written_page(config: ProofConfig, launch: run.Launch) -> str:
    proved(config, launch)
    return (config.folder / MARKDOWN).read_text(encoding="utf-8")


def test_the_report_is_whole_after_every_stage(config: ProofConfig) -> None:
    seen: list[int] = []

    class Looks(Launched):
        def __call__(self, stage: Stage, seconds: float) -> Outcome:
            if stage.name != "machine":
                found = states(config)
                assert list(found) == NAMES
                seen.append(sum(state == "passed" for state in found.values()))
                reasons = {item["stage"]: item["reason"] for item in written(config)["outcomes"]}
                assert reasons[stage.name] == run.RUNNING  # should the proof be killed now
            return super().__call__(stage, seconds)

    proved(config, Looks(config))
    assert seen == list(range(1, len(NAMES)))


def test_an_interrupted_proof_leaves_its_report_and_goes_on(config: ProofConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        proved(config, Launched(config, staged=KeyboardInterrupt()))
    found = states(config)
    assert (found["graphs"], found["staged"], found["latency"]) == ("passed", "not run", "not run")
    assert {item["reason"] for item in written(config)["outcomes"] if item["state"] == "not run"} == {"interrupted"}
    again = Launched(config)
    assert {outcome.state for outcome in proved(config, again).values()} == {State.PASSED}
    assert again.names == ["machine", *NAMES[NAMES.index("staged") :]]


def test_what_failed_is_run_again_and_so_is_what_needs_it(config: ProofConfig) -> None:
    proved(config, Launched(config, kernels_compiled=State.FAILED))
    again = Launched(config)
    proved(config, again)
    assert again.names == ["machine", "kernels-compiled", "kernels-loaded"]


def test_what_a_stage_needed_was_made_again_so_it_runs_again(config: ProofConfig) -> None:
    proved(config, Launched(config))
    (config.folder / run.OUTCOMES / "full.json").unlink()
    again = Launched(config)
    proved(config, again)
    assert again.names == ["machine", "full", "full-video", "latency", "full-verify"]


def test_another_machine_or_other_options_begin_anew(config: ProofConfig) -> None:
    proved(config, Launched(config))
    other = Launched(config)
    other.machine = {**MACHINE, "driver": "590.1"}
    proved(config, other)
    assert other.names == NAMES
    more_steps = ProofConfig(folder=config.folder, dry=False, steps=25, tensorrt=FlavourChoice.AUTO)
    launch = Launched(more_steps)
    proved(more_steps, launch)
    assert launch.names == NAMES


def test_again_forgets_what_passed(config: ProofConfig) -> None:
    proved(config, Launched(config))
    forget(config)
    launch = Launched(config)
    proved(config, launch)
    assert launch.names == NAMES


def test_when_the_time_is_up_the_rest_is_not_run(config: ProofConfig) -> None:
    launch = Launched(config, full=StageTimeoutError())
    outcomes = proved(config, launch, minutes=10)  # less than the stage `full` may take
    assert outcomes["full"].reason == run.TIME_WAS_UP
    assert outcomes["full"].state is State.NOT_RUN
    assert proved(config, Launched(config), minutes=0)["machine"].state is State.NOT_RUN


def test_a_stage_that_hangs_is_a_failure_and_the_next_one_runs(config: ProofConfig) -> None:
    outcomes = proved(config, Launched(config, verify=StageTimeoutError()))
    assert outcomes["verify"].state is State.FAILED
    assert outcomes["verify"].reason == "it took more than 3 minutes and was stopped"
    assert outcomes["graphs"].state is State.PASSED


def test_a_folder_with_something_else_is_left_alone(config: ProofConfig) -> None:
    config.folder.mkdir()
    (config.folder / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else than a proof"):
        proved(config, Launched(config))
    assert [path.name for path in config.folder.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "its process ended with signal 11: it says nothing"),
        ("print('no GPU here'); raise SystemExit(1)", "its process ended with exit code 1: no GPU here"),
    ],
)
def test_a_stage_whose_process_dies_is_told(
    program: str, said: str, config: ProofConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.folder / run.OUTCOMES).mkdir(parents=True)
    started = run.subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda words, **options: started([words[0], "-c", program], **options))
    outcome = ProcessLaunch(config)(STAGES[0], 60)
    assert (outcome.state, outcome.reason) == (State.FAILED, said)


def test_a_stage_is_stopped_with_all_that_it_started(config: ProofConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.folder / run.OUTCOMES).mkdir(parents=True)
    child = "import time; time.sleep(600)"
    program = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); {child}"
    )
    log = config.folder / run.LOGS / "machine.log"
    started = run.subprocess.Popen
    processes = []

    def start(words: list[str], **options: Any) -> Any:
        process = started([words[0], "-c", program], **options)
        wait = process.wait

        def until_it_began(timeout: float | None = None) -> int:
            """The stage's time is up as soon as it has started a process of its own."""
            if timeout == 60:
                while not log.read_text().endswith("\n"):
                    time.sleep(0.01)
                raise run.subprocess.TimeoutExpired("stage", timeout)
            return wait(timeout)

        process.wait = until_it_began
        processes.append(process)
        return process

    monkeypatch.setattr(run.subprocess, "Popen", start)
    with pytest.raises(StageTimeoutError):
        ProcessLaunch(config)(STAGES[0], 60)
    assert processes[0].returncode is not None
    grandchild = int(log.read_text())
    while is_alive(grandchild):  # killed; pytest's own limit is the guard
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


PERSONAL: list[tuple[str, Callable[[Path], str]]] = [
    ("the proof's folder", lambda folder: f"{folder.absolute()}/tiny/plans/x.plan was changed"),
    ("home", lambda _folder: f"{Path.home()}/.cache/vcut_trt cannot be written"),
    ("a folder elsewhere", lambda _folder: "cannot read '/mnt/jane/bundle/onnx/unet.onnx': no such file"),
    ("host", lambda _folder: f"connection from {platform.node()} refused"),
    ("the GPU's number", lambda _folder: "GPU-5f3c1b7e-9a1c-4a1e-8d55-0123456789ab fell off the bus"),
]


@pytest.mark.parametrize(("what", "text"), PERSONAL, ids=[what for what, _ in PERSONAL])
def test_what_tells_who_made_it_is_not_in_the_report(
    what: str, text: Callable[[Path], str], config: ProofConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "janes-box")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    monkeypatch.setenv("HOME", "/home/jane")
    said = text(config.folder)
    found = scrub.scrubbed({"reason": [said]}, config.folder)["reason"][0]
    assert found != said
    for word in ("jane", str(config.folder), "/mnt", "5f3c1b7e"):
        assert word not in found


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/stabilityai/x cannot be reached",
        "a pixel differs by 3.9e-03 (1/255) between two videos",
        "ended and/or failed at /readyz",
        "torch 2.13.0+cu130, TensorRT 1.7.1.116",
    ],
)
def test_what_tells_nobody_stays(text: str, config: ProofConfig) -> None:
    assert scrub.scrubbed(text, config.folder) == text


def contender(name: str, cut_step: int | None, binding_s: float, improvement_s: float) -> dict[str, Any]:
    typical = {"total_s": binding_s + improvement_s + 3, "binding_s": binding_s, "improvement_s": improvement_s}
    return {
        "name": name,
        "cut_step": cut_step,
        "timing": {"latency_s": typical["total_s"], "typical": typical},
        "speedup": 1.0,
        "fraction_of_ceiling": 0.5,
        "peak_device_bytes": None,
    }


@pytest.mark.parametrize(
    ("name", "cut_step", "seconds", "whole"),
    [
        ("stock", None, (20.0, 0.0), 25 * 4 + 3),  # 5 guided steps of 4 s
        ("vcut-tensorrt/paper/uncut", None, (20.0, 0.0), 25 * 4 + 3),
        ("vcut-tensorrt/paper/c17", 4, (12.0, 4.0), 16 * 4 + 9 * 2 + 3),  # 3 of 4 s, 2 of 2 s
    ],
)
def test_a_video_of_25_steps_is_computed_from_its_steps(
    name: str, cut_step: int | None, seconds: tuple[float, float], whole: float
) -> None:
    assert whole_video(contender(name, cut_step, *seconds), 5) == pytest.approx(whole)


def test_without_a_data_sheet_the_roofline_is_left_out() -> None:
    answer = {"contenders": [contender("stock", None, 20, 0)], "work": {"model": "tiny", "steps": 5}}
    (row,) = beside(answer, None)
    assert (row["roofline_s"], row["fraction_of_roofline"], row["seconds"]) == (None, None, 23)


def test_cards_are_those_of_the_roofline() -> None:
    assert set(CUDA_NAMES.values()) == set(CARDS)


def test_a_report_reads_back(config: ProofConfig) -> None:
    proved(config, Launched(config))
    assert Report.model_validate(written(config)).steps == 5
