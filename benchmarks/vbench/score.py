"""Score a run with VBench: one process a dimension, in VBench's own environment.

What is scored already is not scored again: a dimension's result comes to its place when it has every video.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.vbench.environment import MODELS, check_installed, run
from benchmarks.vbench.record import RESULTS, VIDEOS, RunRecord, read_record
from benchmarks.vbench.results import ENDING, read_results
from benchmarks.vbench.suite import CROPS, DIMENSIONS, Prompts, Suite, VBenchError, check_images, read_suite
from vcut_trt.errors import ConfigError
from vcut_trt.work.progress import SILENT, Progress

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """A call of `score`.

    Raises:
        ConfigError: A dimension is none of Table IV's.
    """

    run: Path
    suite: Path
    crops: Path
    environment: Path
    dimensions: tuple[str, ...]
    device: str

    def __post_init__(self) -> None:
        unknown = [name for name in self.dimensions if name not in DIMENSIONS]
        if unknown or not self.dimensions:
            raise ConfigError(f"unknown dimension {', '.join(unknown) or '(none)'}; use {', '.join(DIMENSIONS)}")


def score_run(config: ScoreConfig, progress: Progress = SILENT) -> tuple[Path, ...]:
    """Score what is not scored yet; the paths of all asked results.

    Raises:
        VBenchError: The run is incomplete or of another suite, images or the environment are missing, or VBench fails.
    """
    python = check_installed(config.environment)
    record, suite = read_record(config.run), read_suite(config.suite)
    if suite.sha256 != record.settings.suite_sha256:
        raise VBenchError(f"{config.suite} is not the suite that {config.run} was made of: their SHA-256 differ")
    check_images(suite.select(Prompts.SCORED), config.crops, record.settings.ratio)
    wanted = {name: _wanted(record, suite, name) for name in config.dimensions}
    _check_videos(config.run / VIDEOS, set[str]().union(*wanted.values()))
    results = config.run / RESULTS
    paths = {dimension: results / f"{dimension}{ENDING}" for dimension in wanted}
    try:
        results.mkdir(exist_ok=True)
        for dimension, videos in wanted.items():
            if _is_complete(paths[dimension], dimension, videos):
                progress.message(f"{dimension} is scored already: {paths[dimension]}")
                continue
            with progress.stage(f"{dimension}: {len(videos)} videos"):
                _score(config, record, python, dimension, videos)
    except OSError as error:
        raise VBenchError(f"cannot score in {results}: {error}") from error
    return tuple(paths.values())


def _score(config: ScoreConfig, record: RunRecord, python: Path, dimension: str, videos: set[str]) -> None:
    """Run VBench in a working folder where it finds the images and its models; keep its result if it is whole."""
    results = (config.run / RESULTS).absolute()
    with tempfile.TemporaryDirectory(dir=results, prefix=".score-") as name:
        folder = Path(name)
        (folder / CROPS).parent.mkdir(parents=True)
        (folder / CROPS).symlink_to(config.crops.absolute(), target_is_directory=True)
        (folder / MODELS).symlink_to((config.environment / MODELS).absolute(), target_is_directory=True)
        arguments = {
            "videos": (config.run / VIDEOS).absolute(),
            "suite": config.suite.absolute(),
            "output": folder,
            "dimension": dimension,
            "ratio": record.settings.ratio.value,
            "device": config.device,
        }
        options = [text for option, value in arguments.items() for text in (f"--{option}", str(value))]
        run([str(python), "-I", str(WORKER), *options], log=results / f"{dimension}.log", folder=folder)
        made = folder / f"{dimension}{ENDING}"
        if not _is_complete(made, dimension, videos):
            raise VBenchError(f"VBench did not score every video on {dimension}; see {results / dimension}.log")
        made.replace(results / made.name)


def _wanted(record: RunRecord, suite: Suite, dimension: str) -> set[str]:
    videos = set(suite.videos_of(dimension, record.settings.videos_per_image))
    if not videos:
        raise VBenchError(f"the suite has no prompt for {dimension}. Choose others with --dimension.")
    return videos


def _check_videos(folder: Path, wanted: set[str]) -> None:
    """Refuse a folder that lacks videos, or has what VBench would stumble over."""
    try:
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise VBenchError(f"cannot read the run's videos: {error}. Run `generate` first.") from error
    missing = sorted(wanted - found)
    if missing:
        raise VBenchError(
            f"{len(missing)} of {len(wanted)} videos are not in {folder}, such as {missing[0]!r}. Run "
            "`generate` again, for every shard."
        )
    strange = sorted(name for name in found if not name.endswith(".mp4"))
    if strange:
        raise VBenchError(
            f"{folder} must hold nothing but videos, for VBench looks for the ending of any one file in it; it has "
            f"{strange[0]!r}. `generate` clears what it left; remove the rest."
        )


def _is_complete(path: Path, dimension: str, videos: set[str]) -> bool:
    """Whether a result is there, whole, and of exactly these videos."""
    try:
        score = read_results(path).get(dimension)
    except VBenchError:
        return False
    return score is not None and score.videos == videos
