"""The suite's videos: names, seeds, shards, and work that is interrupted and goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import av
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.vbench.__main__ import app
from benchmarks.vbench.jobs import Job, Shard, jobs_of, make_videos, pending, working_in
from benchmarks.vbench.suite import Prompts, SuiteEntry, VBenchError, read_suite
from tests.benchmarks.vbench_runs import begin_run
from tests.benchmarks.vbench_suites import BACKGROUND, MOVEMENT, SUBJECT, entries, write_crops, write_suite
from vcut_trt import VCutPipeline
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError
from vcut_trt.runtime.image import fit_image, load_image
from vcut_trt.runtime.video import write_mp4
from vcut_trt.spec.clip import Fit

FRAMES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]
SCORED_NAMES = [f"{prompt}-{index}.mp4" for prompt in (SUBJECT, BACKGROUND) for index in range(5)]


def entry(prompt: str) -> SuiteEntry:
    return SuiteEntry(prompt_en=prompt, image_name="x.jpg", dimension=())


def jobs(count: int) -> list[Job]:
    return jobs_of([entry(f"prompt {number}") for number in range(count)], 5)


class Recorder:
    """Makes videos, notes of what, and is interrupted at the asked call."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.made: list[str] = []
        self._calls_left = interrupted_at

    def __call__(self, job: Job) -> Sequence[Image.Image]:
        if self._calls_left == 0:
            raise KeyboardInterrupt
        if self._calls_left is not None:
            self._calls_left -= 1
        self.made.append(job.name)
        return FRAMES


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def generate(bundle: Bundle, folder: Path, *options: str) -> Any:
    """Run the command on the two-image suite, with 2 steps and 2 videos an image."""
    arguments = ["generate", str(bundle.root), "--suite", str(folder / "vbench2_i2v_full_info.json")]
    arguments += ["--images", str(folder / "crop"), "--output", str(folder / "run"), "--steps", "2", "--json"]
    given = {*options[::2]}
    defaults = {"--cut-step": "2", "--videos-per-image": "2", "--backend": "onnxruntime", "--device": "cpu"}
    arguments += [text for name, value in defaults.items() if name not in given for text in (name, value)]
    return CliRunner().invoke(app, [*arguments, *options])


@pytest.fixture
def suite_folder(tmp_path: Path) -> Path:
    write_suite(tmp_path)
    write_crops(tmp_path)
    return tmp_path


def test_names_are_those_that_vbench_looks_for(suite_folder: Path) -> None:
    suite = read_suite(suite_folder / "vbench2_i2v_full_info.json")
    assert [job.name for job in jobs_of(suite.select(Prompts.SCORED), 5)] == SCORED_NAMES
    movement = [f"{MOVEMENT}-{index}.mp4" for index in range(5)]
    assert [job.name for job in jobs_of(suite.select(Prompts.ALL), 5)] == [*SCORED_NAMES, *movement]


def test_a_seed_is_a_documented_function_of_name_and_index() -> None:
    digest = hashlib.sha256(b"a quiet harbour at dawn-3").hexdigest()
    expected = int(digest[:16], 16) // 2  # 64 bits, without the last
    assert Job(entry=entry(BACKGROUND), index=3).seed == expected
    seeds = {job.seed for job in jobs(100)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shards_are_disjoint_and_cover_everything(count: int) -> None:
    everything = jobs(7)
    shards = [Shard.parse(f"{index}/{count}").select(everything) for index in range(1, count + 1)]
    assert Counter(job.name for shard in shards for job in shard) == Counter(job.name for job in everything)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "3", "a/b", "-1/2", "1/2/3", "", "1.5/2", "٣/٨"])
def test_shards_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        Shard.parse(text)


def test_an_interrupted_run_goes_on_without_doubles_or_losses(tmp_path: Path) -> None:
    everything = jobs(4)
    made: list[str] = []
    for interrupted_at in (3, 0, 9, 1, None):
        recorder = Recorder(interrupted_at)
        try:
            with working_in(tmp_path, everything):
                make_videos(pending(everything, tmp_path), recorder, tmp_path, 7)
        except KeyboardInterrupt:
            assert interrupted_at is not None
        made += recorder.made
        assert names_in(tmp_path) == sorted(made)  # all that was made is there, and nothing else
    assert made == [job.name for job in everything]


def test_what_another_process_has_made_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def make(job: Job) -> Sequence[Image.Image]:
        made.append(job.name)
        (tmp_path / "prompt 0-3.mp4").touch()
        return FRAMES

    paths = make_videos(jobs(1), make, tmp_path, 7)
    assert made == [f"prompt 0-{index}.mp4" for index in (0, 1, 2, 4)]
    assert [path.name for path in paths] == made
    assert len(names_in(tmp_path)) == 5


def test_of_two_runs_that_begin_at_once_in_one_folder_one_wins(tmp_path: Path) -> None:
    suite, together = write_suite(tmp_path), Barrier(2)

    def begin(cut_step: int) -> bool:
        together.wait()
        try:
            begin_run(tmp_path / "run", suite, cut_step=cut_step)
        except VBenchError as error:
            assert "begun with other settings" in str(error)  # noqa: PT017  # one of the two raises, either one
            return False
        return True

    for _ in range(20):
        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(begin, (17, 20))) == [False, True]
        assert names_in(tmp_path / "run") == ["run.json", "videos"]
        (tmp_path / "run" / "run.json").unlink()


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from vcut_trt.runtime import video
from benchmarks.vbench.jobs import jobs_of, make_videos, working_in
from benchmarks.vbench.suite import SuiteEntry

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
entries = [SuiteEntry(prompt_en=f"prompt {number}", image_name="x.jpg", dimension=()) for number in range(2)]
jobs = jobs_of(entries, 5)

def make(job):
    if job.name == "prompt 1-2.mp4":
        video._in_bt709 = lambda _frame: os.kill(os.getpid(), signal.SIGKILL)  # while its file is written
        return [Image.new("RGB", (64, 64))] * 2
    with log.open("a") as file:
        file.write(job.name + "\\n")
    return [Image.new("RGB", (64, 64))] * 2

with working_in(folder, jobs):
    make_videos(jobs, make, folder, 7)
"""


def test_a_process_killed_while_it_writes_leaves_nothing_half(tmp_path: Path) -> None:
    folder, log = tmp_path / "videos", tmp_path / "log"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(folder), str(log)]
    killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    assert any(name.startswith(".prompt 1-2.mp4.") for name in names_in(folder))  # the leftover that a kill leaves
    assert not (folder / "prompt 1-2.mp4").exists()

    recorder = Recorder()
    with working_in(folder, jobs(2)):
        make_videos(pending(jobs(2), folder), recorder, folder, 7)
    made = [*log.read_text().splitlines(), *recorder.made]
    assert made == [job.name for job in jobs(2)]
    assert names_in(folder) == sorted(made)


def test_leftovers_are_cleared_only_where_nobody_works_and_only_ours(tmp_path: Path) -> None:
    ours, alien = tmp_path / ".prompt 0-1.mp4.k3j_x2", tmp_path / ".somebody.mp4.else"
    (ours / "inside").mkdir(parents=True)
    alien.touch()
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)  # another shard is at work
    with working_in(tmp_path, jobs(1)):
        assert names_in(tmp_path) == sorted([ours.name, alien.name])
    os.close(lock)
    with working_in(tmp_path, jobs(1)):
        assert names_in(tmp_path) == [alien.name]


def test_a_bundle_makes_the_suite_in_two_shards(
    nano_bundle: Bundle, suite_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = suite_folder / "run" / "videos"
    calls = []
    call = VCutPipeline.__call__

    def interrupted(self: VCutPipeline, *arguments: Any, **options: Any) -> Any:
        calls.append(options["generator"].initial_seed())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, *arguments, **options)

    monkeypatch.setattr(VCutPipeline, "__call__", interrupted)
    assert generate(nano_bundle, suite_folder, "--shard", "2/2").exit_code == 130
    assert names_in(videos) == [f"{SUBJECT}-1.mp4"]
    first = (videos / f"{SUBJECT}-1.mp4").read_bytes()
    for shard, made, found in (("2/2", 1, 1), ("1/2", 2, 0), ("1/1", 0, 4)):
        result = generate(nano_bundle, suite_folder, "--shard", shard)
        assert result.exit_code == 0, result.stderr
        answer = json.loads(result.stdout)
        assert (answer["made"], answer["found"]) == (made, found)
    expected = sorted(name for name in SCORED_NAMES if name.endswith(("-0.mp4", "-1.mp4")))
    assert names_in(videos) == expected
    assert len(calls) == 5  # four videos, and the one that was interrupted
    assert (videos / f"{SUBJECT}-1.mp4").read_bytes() == first

    job = Job(entry=entry(BACKGROUND), index=1)
    picture = fit_image(
        load_image(suite_folder / "crop" / "16-9" / f"{BACKGROUND}.jpg"), width=128, height=64, fit=Fit.CROP
    )
    with VCutPipeline.from_bundle(nano_bundle, backend="onnxruntime", device="cpu") as pipeline:
        generator = torch.Generator().manual_seed(job.seed)
        (clip,) = call(pipeline, picture, num_inference_steps=2, cut_step=2, fps=7, generator=generator).frames
    write_mp4(clip, suite_folder / "direct.mp4", 7)
    assert (suite_folder / "direct.mp4").read_bytes() == (videos / job.name).read_bytes()
    with av.open(str(videos / job.name)) as container:
        assert container.streams.video[0].average_rate == 7
        assert sum(1 for _ in container.decode(video=0)) == nano_bundle.manifest.video.frames

    record = json.loads((suite_folder / "run" / "run.json").read_text())
    assert record["settings"]["cut_step"] == 2
    assert record["settings"]["bundle"]["model"]["id"] == nano_bundle.manifest.model.id
    assert "SHA-256" in record["settings"]["seed_rule"]
    assert record["versions"]["torch"] == torch.__version__
    assert record["expected_videos"]["i2v_subject"] == 2
    assert record["expected_videos"]["imaging_quality"] == 4


@pytest.fixture
def begun(nano_bundle: Bundle, suite_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite whose run has begun, without videos: nothing opens an engine."""

    def stop(*_arguments: Any, **_options: Any) -> None:
        raise VBenchError("no engines here")

    monkeypatch.setattr("benchmarks.vbench.generate.VCutPipeline.from_bundle", stop)
    assert "no engines here" in generate(nano_bundle, suite_folder).stderr
    return suite_folder


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--cut-step", "3", "cut_step is 3, there it is 2"),
        ("--fps", "8", "fps is 8, there it is 7"),
        ("--videos-per-image", "1", "videos_per_image is 1, there it is 2"),
        ("--backend", "auto", "backend is auto, there it is onnxruntime"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    begun: Path, nano_bundle: Bundle, option: str, value: str, message: str
) -> None:
    before = (begun / "run" / "run.json").read_bytes()
    result = generate(nano_bundle, begun, option, value)
    assert result.exit_code == 1
    assert message in result.stderr
    assert (begun / "run" / "run.json").read_bytes() == before


def test_a_run_does_not_go_on_with_another_suite_or_bundle(begun: Path, nano_bundle: Bundle, tmp_path: Path) -> None:
    record = begun / "run" / "run.json"
    content = json.loads(record.read_text())
    content["settings"]["bundle"]["weights"]["unet_cfg"] = "0" * 64
    record.write_text(json.dumps(content))
    assert "bundle.weights.unet_cfg is" in generate(nano_bundle, begun).stderr
    record.unlink()
    assert "no engines here" in generate(nano_bundle, begun).stderr
    write_suite(tmp_path, entries()[:2])
    assert "suite_sha256 is" in generate(nano_bundle, begun).stderr


def test_other_versions_are_told(begun: Path, nano_bundle: Bundle) -> None:
    record = begun / "run" / "run.json"
    content = json.loads(record.read_text())
    content["versions"]["torch"] = "1.0"
    record.write_text(json.dumps(content))
    assert "torch 1.0 →" in generate(nano_bundle, begun).stderr


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 2}', "[" * 100_000, "\udcff"])
def test_a_damaged_record_is_an_error_of_ours(begun: Path, nano_bundle: Bundle, content: str) -> None:
    (begun / "run" / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    result = generate(nano_bundle, begun)
    assert result.exit_code == 1
    assert "run.json is damaged" in result.stderr


def test_videos_that_nothing_is_recorded_of_are_not_taken_over(begun: Path, nano_bundle: Bundle) -> None:
    (begun / "run" / "run.json").unlink()
    (begun / "run" / "videos" / SCORED_NAMES[0]).touch()
    assert "has videos but" in generate(nano_bundle, begun).stderr


def test_an_output_that_cannot_be_a_folder_is_an_error_of_ours(nano_bundle: Bundle, suite_folder: Path) -> None:
    (suite_folder / "run").write_text("mine")
    result = generate(nano_bundle, suite_folder)
    assert result.exit_code == 1
    assert "cannot begin a run" in result.stderr
    assert (suite_folder / "run").read_text() == "mine"


def test_a_cut_outside_the_steps_is_wrong_usage(nano_bundle: Bundle, suite_folder: Path) -> None:
    assert generate(nano_bundle, suite_folder, "--cut-step", "4").exit_code == 2
    assert not (suite_folder / "run").exists()


def test_more_steps_than_there_are_timesteps_are_wrong_usage(nano_bundle: Bundle, suite_folder: Path) -> None:
    result = generate(nano_bundle, suite_folder, "--steps", "1001")
    assert result.exit_code == 2
    assert "at most 1000" in result.stderr
    assert not (suite_folder / "run").exists()


@pytest.mark.parametrize(
    "name", ["../outside", "a/b", "a\\b", "", " ", ".hidden", "x" * 201, "é" * 101, "a\nb", "a\0b", "\ud800", "C:x"]
)
@pytest.mark.parametrize("field", ["prompt_en", "image_name"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str, field: str) -> None:
    path = write_suite(tmp_path, [{**entries()[0], field: name}])
    with pytest.raises(VBenchError, match="is not VBench's image-to-video suite"):
        read_suite(path)


@pytest.mark.parametrize("twin", [SUBJECT, SUBJECT.upper(), "cafe\u0301"])
def test_two_prompts_of_one_file_name_are_refused(tmp_path: Path, twin: str) -> None:
    first = "caf\u00e9" if twin.startswith("caf") else SUBJECT
    path = write_suite(tmp_path, [{**entries()[0], "prompt_en": prompt} for prompt in (first, twin)])
    with pytest.raises(VBenchError, match="two prompts of one file name"):
        read_suite(path)


@pytest.mark.parametrize("content", [{}, [], [1], [{"prompt_en": "a"}], "text", None])
def test_what_is_no_suite_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(content))
    with pytest.raises(VBenchError, match="suite|no prompt"):
        read_suite(path)


def test_without_the_suite_or_its_images_the_message_says_what_to_fetch(
    nano_bundle: Bundle, suite_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = suite_folder / "crop" / "16-9" / f"{BACKGROUND}.jpg"
    image.unlink()
    result = generate(nano_bundle, suite_folder)
    assert result.exit_code == 1
    for words in ("1 of 2 images", "crop.zip", "Google Drive", str(image), "crop/16-9/{image_name}"):
        assert words in result.stderr
    monkeypatch.chdir(suite_folder)
    bare = ["generate", str(nano_bundle.root), "--output", "run", "--cut-step", "17"]
    result = CliRunner().invoke(app, bare)
    assert result.exit_code == 1
    for words in ("vbench2_beta_i2v/vbench2_i2v_full_info.json", "https://github.com/Vchitect/VBench", "--suite"):
        assert words in result.stderr
    assert not (suite_folder / "run").exists()
