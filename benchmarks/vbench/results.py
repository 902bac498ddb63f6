"""What VBench leaves: `{name}_eval_results.json`.

    {dimension: [mean, [{"video_path": …, "video_results": …, …}, …]], …}

Means lie in [0, 1]. That of imaging_quality is divided by 100, its videos' results are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from benchmarks.vbench.suite import DIMENSIONS, VBenchError, first_error

ENDING = "_eval_results.json"


class VideoResult(BaseModel):
    """One video's score, on the dimension's own scale."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    video_path: str
    video_results: Annotated[float, Field(allow_inf_nan=False)]  # dynamic_degree: true or false


_RESULTS = TypeAdapter(
    dict[str, tuple[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)], tuple[VideoResult, ...]]]
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One dimension of one run."""

    mean: float  # 0 … 1
    videos: frozenset[str]  # the names of the files that were scored


def read_results(path: Path) -> dict[str, Score]:
    """The scores of one file, by dimension.

    Raises:
        VBenchError: The file is missing, damaged, or has a dimension without videos.
    """
    try:
        content = _RESULTS.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise VBenchError(f"there are no results {path}") from None
    except OSError as error:
        raise VBenchError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        raise VBenchError(f"{path} has no results of VBench 0.1.5: {first_error(error)}. Score again.") from error
    empty = [name for name, (_, videos) in content.items() if not videos]
    if empty:
        raise VBenchError(f"{path} has no video for {', '.join(empty)}. Score again.")
    return {
        name: Score(mean=mean, videos=frozenset(Path(video.video_path).name for video in videos))
        for name, (mean, videos) in content.items()
    }


def merge_results(paths: Iterable[Path]) -> dict[str, Score]:
    """The scores of Table IV's dimensions in several files of one run.

    Raises:
        VBenchError: A file is damaged, or two have the same dimension.
    """
    merged: dict[str, Score] = {}
    sources: dict[str, Path] = {}
    for path in paths:
        for name, score in read_results(path).items():
            if name in sources:
                raise VBenchError(f"both {sources[name]} and {path} have {name}. Remove one.")
            merged[name], sources[name] = score, path
    return {name: merged[name] for name in DIMENSIONS if name in merged}
