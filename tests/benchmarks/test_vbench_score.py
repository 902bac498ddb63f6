"""Scoring, with a stand-in for the Python of VBench's environment that checks what it is given."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.vbench import worker
from benchmarks.vbench.__main__ import app
from benchmarks.vbench.environment import REQUIREMENTS, check_installed, install
from benchmarks.vbench.results import read_results
from benchmarks.vbench.suite import DIMENSIONS, VBenchError
from tests.benchmarks.vbench_runs import begin_run
from tests.benchmarks.vbench_suites import BACKGROUND, SUBJECT, entries, write_crops, write_suite

STAND_IN = '''#!{python} -I
"""Takes the place of the environment's Python: `python -I worker --videos …` scores, `-I -m …` installs."""
import json, os, shutil, sys
from pathlib import Path

home = Path(__file__).absolute().parents[1]
with (home / "calls").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if (home / "fails").exists():
    print("\\n".join(f"line {{number}}" for number in range(40)) + "\\nCUDA out of memory: \\u00fc", file=sys.stderr)
    sys.exit(3)
assert sys.argv[1] == "-I", sys.argv
if sys.argv[2] == "-m":
    sys.exit(0)
assert Path(sys.argv[2]).name == "worker.py" and Path(sys.argv[2]).is_file()
given = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
assert sorted(given) == ["--device", "--dimension", "--output", "--ratio", "--suite", "--videos"], given
dimension, videos = given["--dimension"], Path(given["--videos"])
assert all(path.suffix == ".mp4" for path in videos.iterdir())
Path("models/dreamsim").touch()  # where dreamsim keeps its weights
found = []
for entry in json.loads(Path(given["--suite"]).read_text()):
    if dimension in entry["dimension"]:
        assert Path("vbench2_beta_i2v/data/crop", given["--ratio"], entry["image_name"]).is_file()
        names = [f"{{entry['prompt_en']}}-{{index}}.mp4" for index in range(5)]
        there = [videos / name for name in names if (videos / name).is_file()]
        found += [{{"video_path": str(path), "video_results": 0.5}} for path in there]
if (home / "forgets").exists():
    found.pop()
print("scored", len(found))
Path(given["--output"], f"{{dimension}}_eval_results.json").write_text(json.dumps({{dimension: [0.5, found]}}))
'''


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment that `install` has made, as far as `score` can see."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "models").mkdir()
    shutil.copy(REQUIREMENTS, folder)
    python = folder / "bin" / "python"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run of the two-image suite."""
    suite, folder = write_suite(tmp_path), tmp_path / "run"
    write_crops(tmp_path)
    begin_run(folder, suite)
    for prompt in (SUBJECT, BACKGROUND):
        for index in range(5):
            (folder / "videos" / f"{prompt}-{index}.mp4").touch()
    return folder


def score(run: Path, environment: Path, *options: str) -> Any:
    folder = run.parent
    given = ["--suite", str(folder / "vbench2_i2v_full_info.json"), "--images", str(folder / "crop")]
    return CliRunner().invoke(app, ["score", str(run), *given, "--environment", str(environment), *options])


def calls(environment: Path) -> list[list[str]]:
    log = environment / "calls"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_each_dimension_is_scored_once_in_a_process_of_its_own(run: Path, environment: Path) -> None:
    result = score(run, environment, "--json")
    assert result.exit_code == 0, result.stderr
    paths = [run / "results" / f"{name}_eval_results.json" for name in DIMENSIONS]
    assert json.loads(result.stdout)["results"] == [str(path) for path in paths]
    for name, path in zip(DIMENSIONS, paths, strict=True):
        expected = 10 if name in ("aesthetic_quality", "imaging_quality") else 5
        assert len(read_results(path)[name].videos) == expected
        assert (run / "results" / f"{name}.log").read_text() == f"scored {expected}\n"
    assert [call[call.index("--dimension") + 1] for call in calls(environment)] == list(DIMENSIONS)
    assert (environment / "models" / "dreamsim").exists()  # weights outlive the working folder
    assert {path.suffix for path in (run / "results").iterdir()} == {".json", ".log"}

    paths[2].write_text("{")  # damaged: to be scored again, alone
    again = score(run, environment)
    assert again.exit_code == 0, again.stderr
    assert "subject_consistency is scored already" in again.stderr
    assert len(calls(environment)) == 9
    assert "motion_smoothness" in calls(environment)[-1]


def test_relative_paths_are_those_of_the_caller(run: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    arguments = ["score", "run", "--suite", "vbench2_i2v_full_info.json", "--images", "crop"]
    arguments += ["--environment", "environment", "--dimension", "i2v_subject"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert len(read_results(run / "results" / "i2v_subject_eval_results.json")["i2v_subject"].videos) == 5


def test_a_failure_shows_the_last_lines_and_keeps_what_was_scored(run: Path, environment: Path) -> None:
    assert score(run, environment, "--dimension", "i2v_subject").exit_code == 0
    (environment / "fails").touch()
    result = score(run, environment)
    assert result.exit_code == 1
    assert "python ended with exit code 3" in result.stderr
    assert "CUDA out of memory: ü" in result.stderr
    assert "line 39" in result.stderr
    assert "line 5\n" not in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in (run / "results").glob("*.json")] == ["i2v_subject_eval_results.json"]
    assert not list((run / "results").glob(".score-*"))


def test_a_result_without_every_video_is_not_taken(run: Path, environment: Path) -> None:
    (environment / "forgets").touch()
    result = score(run, environment, "--dimension", "i2v_subject")
    assert result.exit_code == 1
    assert "did not score every video on i2v_subject" in result.stderr
    assert not list((run / "results").glob("*.json"))


def test_a_run_that_lacks_videos_is_refused(run: Path, environment: Path) -> None:
    (run / "videos" / f"{SUBJECT}-3.mp4").unlink()
    result = score(run, environment)
    assert result.exit_code == 1
    assert f"1 of 10 videos are not in {run / 'videos'}, such as '{SUBJECT}-3.mp4'" in result.stderr
    assert calls(environment) == []


def test_what_vbench_would_stumble_over_is_refused(run: Path, environment: Path) -> None:
    (run / "videos" / "notes.txt").touch()
    result = score(run, environment)
    assert result.exit_code == 1
    assert "'notes.txt'" in result.stderr
    assert calls(environment) == []


def test_another_suite_and_missing_images_are_refused(run: Path, environment: Path) -> None:
    (run.parent / "crop" / "16-9" / f"{SUBJECT}.jpg").unlink()
    assert "1 of 2 images" in score(run, environment).stderr
    write_suite(run.parent, entries()[:2])
    assert "is not the suite that" in score(run, environment).stderr
    assert calls(environment) == []


def test_a_folder_that_is_no_run_is_refused(run: Path, environment: Path) -> None:
    (run / "run.json").unlink()
    result = score(run, environment)
    assert result.exit_code == 1
    assert "is no run" in result.stderr


def test_unknown_dimensions_are_wrong_usage(run: Path, environment: Path) -> None:
    result = score(run, environment, "--dimension", "camera_motion")
    assert result.exit_code == 2
    assert "unknown dimension camera_motion" in result.stderr


def test_a_missing_or_unfinished_environment_is_told_with_the_command_that_makes_it(
    run: Path, environment: Path
) -> None:
    missing = score(run, environment.with_name("gone"))
    assert missing.exit_code == 1
    assert "there is no environment" in missing.stderr
    assert "python -m benchmarks.vbench install" in missing.stderr
    marker = environment / "requirements.txt"
    marker.write_text("vbench==0.1.4\n")
    assert "other requirements" in score(run, environment).stderr
    marker.unlink()
    assert "did not end" in score(run, environment).stderr
    assert calls(environment) == []


def test_install_makes_the_environment_and_says_when_it_is_whole(environment: Path, tmp_path: Path) -> None:
    python, target = environment / "bin" / "python", tmp_path / "new"
    with pytest.raises(VBenchError, match="cannot run .*new/bin/python"):
        install(target, str(python))  # the stand-in's `venv` makes nothing
    assert calls(environment) == [["-I", "-m", "venv", str(target)]]
    with pytest.raises(VBenchError, match="there is no environment"):
        check_installed(target)

    (target / "bin").mkdir()
    (target / "pyvenv.cfg").touch()
    shutil.copy(python, target / "bin" / "python")
    (target / "fails").touch()
    with pytest.raises(VBenchError, match="CUDA out of memory"):
        install(target, str(python))
    with pytest.raises(VBenchError, match="did not end"):
        check_installed(target)
    (target / "fails").unlink()
    install(target, str(python))
    assert calls(target)[-1] == ["-I", "-m", "pip", "install", "--requirement", str(REQUIREMENTS)]
    assert check_installed(target) == target / "bin" / "python"


def test_install_leaves_other_folders_alone(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    result = CliRunner().invoke(app, ["install", str(tmp_path / "mine"), "--python", str(environment / "bin/python")])
    assert result.exit_code == 1
    assert "it is left alone" in result.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    missing = CliRunner().invoke(app, ["install", str(tmp_path / "new"), "--python", "no-such-python"])
    assert missing.exit_code == 1
    assert "cannot run no-such-python" in missing.stderr


def test_the_worker_calls_vbench_as_it_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class VBenchI2V:
        def __init__(self, device: str, full_info_dir: str, output_path: str) -> None:
            seen.update(device=device, full_info_dir=full_info_dir, output_path=output_path)

        def evaluate(self, videos_path: str, name: str, dimension_list: list[str], resolution: str) -> None:
            seen.update(videos_path=videos_path, name=name, dimension_list=dimension_list, resolution=resolution)

    monkeypatch.setitem(sys.modules, "vbench2_beta_i2v", SimpleNamespace(VBenchI2V=VBenchI2V))
    given = {"videos": "V", "suite": "S", "output": "O", "dimension": "i2v_subject", "ratio": "16-9", "device": "cuda"}
    arguments = [text for name, value in given.items() for text in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["worker.py", *arguments])
    worker.main()
    assert seen == {
        "device": "cuda",
        "full_info_dir": "S",
        "output_path": "O",
        "videos_path": "V",
        "name": "i2v_subject",
        "dimension_list": ["i2v_subject"],
        "resolution": "16-9",
    }


def test_the_requirements_pin_what_vbench_needs() -> None:
    lines = {line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()}
    assert {"vbench==0.1.5", "transformers==4.33.2", "numpy<2", "timm>=0.9,<=1.0.12"} <= lines
    assert any(line.startswith("dreamsim==") for line in lines)
