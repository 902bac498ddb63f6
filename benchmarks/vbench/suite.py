"""VBench's image-to-video suite: which videos it asks for, under which names, from which images.

The suite (`vbench2_i2v_full_info.json`) has 1,118 prompts on 355 images. 355 prompts name an image's content, and the
eight dimensions of the VCUT paper's Table IV read the videos of these alone; 763 repeat an image with a movement of the
camera in words, for `camera_motion`, which the paper does not report and a model without text cannot follow.

Nothing in a suite is trusted: a prompt becomes a file's name, so what would lead out of the folder is refused.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from vcut_trt.errors import VcutError

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "i2v_subject",
    "i2v_background",
)
"""The eight of Tables I and IV, in their order."""

SUITE, CROPS = Path("vbench2_beta_i2v/vbench2_i2v_full_info.json"), Path("vbench2_beta_i2v/data/crop")
"""Where VBench's repository has the suite, and where VBench looks for the images, from its working folder."""

LARGEST_NAME_BYTES = 200  # file systems allow 255; a temporary name beside the video is a little longer than its own
FETCH_SUITE = (
    "It is the file vbench2_beta_i2v/vbench2_i2v_full_info.json of https://github.com/Vchitect/VBench: fetch it and "
    "pass it with --suite."
)
FETCH_IMAGES = (
    "Fetch crop.zip of VBench's image suite, by vbench2_beta_i2v/download_data.sh or from the Google Drive folder that "
    "vbench2_beta_i2v/README.md names, both in https://github.com/Vchitect/VBench; unpack it, and pass the folder crop "
    "with --images. It holds crop/{ratio}/{{image_name}}, for example {example}."
)


class VBenchError(VcutError):
    """The suite, a run, the scoring or a result cannot be used."""


class Ratio(str, Enum):
    """The crops that the suite offers; SVD's 1024 × 576 is 16:9."""

    SQUARE = "1-1"
    EIGHT_FIVE = "8-5"
    SEVEN_FOUR = "7-4"
    WIDE = "16-9"


class Prompts(str, Enum):
    """`--prompts`: which of the suite's prompts get videos."""

    SCORED = "scored"  # those that a dimension of Table IV reads
    ALL = "all"  # camera movements too


def _file_name(name: str) -> str:
    """Refuse what is not a plain file name everywhere."""
    if not name or name != name.strip() or name.startswith("."):
        raise ValueError(f"{name!r} cannot be a file's name")
    if not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise ValueError(f"{name!r} has characters that a file's name must not have")
    if len(name.encode()) > LARGEST_NAME_BYTES:
        raise ValueError(f"{name[:40]!r}… is longer than {LARGEST_NAME_BYTES} bytes")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class SuiteEntry(BaseModel):
    """One prompt. Named as in the file; what else the file has is not needed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt_en: FileName
    image_name: FileName
    dimension: tuple[str, ...]

    @property
    def is_scored(self) -> bool:
        """Whether a dimension of Table IV reads its videos."""
        return not set(DIMENSIONS).isdisjoint(self.dimension)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The suite as it was read."""

    entries: tuple[SuiteEntry, ...]
    sha256: str  # of the file

    def select(self, prompts: Prompts) -> tuple[SuiteEntry, ...]:
        """The entries that get videos, in the file's order."""
        return tuple(entry for entry in self.entries if prompts is Prompts.ALL or entry.is_scored)

    def videos_of(self, dimension: str, videos_per_image: int) -> list[str]:
        """The names of the videos that a dimension reads."""
        readers = [entry for entry in self.entries if dimension in entry.dimension]
        return [video_name(entry, index) for entry in readers for index in range(videos_per_image)]


_ENTRIES = TypeAdapter(tuple[SuiteEntry, ...])


def read_suite(path: Path) -> Suite:
    """Read the suite's JSON.

    Raises:
        VBenchError: The file is missing or damaged, or two prompts would share a file name.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise VBenchError(f"there is no suite {path}. {FETCH_SUITE}") from None
    except OSError as error:
        raise VBenchError(f"cannot read {path}: {error}. {FETCH_SUITE}") from error
    try:
        entries = _ENTRIES.validate_json(content)
    except ValidationError as error:
        raise VBenchError(
            f"{path} is not VBench's image-to-video suite: {first_error(error)}. {FETCH_SUITE}"
        ) from error
    if not entries:
        raise VBenchError(f"{path} has no prompt. {FETCH_SUITE}")
    _refuse_twins(path, [entry.prompt_en for entry in entries])
    return Suite(entries=entries, sha256=hashlib.sha256(content).hexdigest())


def first_error(error: ValidationError) -> str:
    """The first of pydantic's findings, on one line, and how many there are."""
    details = error.errors(include_url=False, include_context=False)
    where = ".".join(str(part) for part in details[0]["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where + ': ' if where else ''}{details[0]['msg']}{more}"


def video_name(entry: SuiteEntry, index: int) -> str:
    """`{prompt}-{index}.mp4`, as VBench looks for it."""
    return f"{entry.prompt_en}-{index}.mp4"


def check_images(entries: Sequence[SuiteEntry], crops: Path, ratio: Ratio) -> None:
    """Find out before any work whether every image is there.

    Raises:
        VBenchError: Images are missing; the message says what to fetch, and where it goes.
    """
    names = dict.fromkeys(entry.image_name for entry in entries)
    missing = [name for name in names if not image_path(crops, ratio, name).is_file()]
    if missing:
        example = image_path(crops, ratio, missing[0])
        fetch = FETCH_IMAGES.format(ratio=ratio.value, example=example)
        raise VBenchError(f"{len(missing)} of {len(names)} images are not in {crops / ratio.value}. {fetch}")


def image_path(crops: Path, ratio: Ratio, image_name: str) -> Path:
    """Where an image's crop lies."""
    return crops / ratio.value / image_name


def _refuse_twins(path: Path, prompts: Iterable[str]) -> None:
    """Refuse two prompts with one file name, also where the file system folds case or composes letters."""
    seen: dict[str, str] = {}
    for prompt in prompts:
        key = unicodedata.normalize("NFC", prompt).casefold()
        if key in seen:
            raise VBenchError(f"{path} has two prompts of one file name: {seen[key]!r} and {prompt!r}. {FETCH_SUITE}")
        seen[key] = prompt
