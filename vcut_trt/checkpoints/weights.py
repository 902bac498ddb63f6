"""Which files hold a part's weights, where its folder offers more than one choice.

    one file or shards       diffusion_pytorch_model.safetensors, …-00001-of-00002.safetensors with an index
    plain or a variant       diffusion_pytorch_model.fp16.safetensors
    any name                 unet.safetensors

Where there are several they are compared, and must say the same up to rounding. Old weights beside new ones are
refused: which of them is meant nobody but the user can say.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vcut_trt.checkpoints.compare import difference
from vcut_trt.checkpoints.tensor_files import stored_tensors
from vcut_trt.errors import CheckpointError
from vcut_trt.work.progress import Progress

PLAIN = "none"
"""What the user calls weights without a variant."""

SHARD = re.compile(r"-(?P<number>\d+)-of-(?P<count>\d+)")
USUAL_STEMS = ("diffusion_pytorch_model", "model")  # what diffusers and transformers save


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """The files that hold all of a part: one, or the shards of one model."""

    files: tuple[Path, ...]

    @property
    def stem(self) -> str:
        """What the files are called, without variant, number and ending."""
        return self._name.partition(".")[0]

    @property
    def variant(self) -> str | None:
        """What stands between the stem and the ending: fp16."""
        return self._name.partition(".")[2] or None

    @property
    def _name(self) -> str:
        return SHARD.sub("", self.files[0].name.removesuffix(".safetensors"))

    def __str__(self) -> str:
        more = len(self.files) - 1
        return str(self.files[0]) + (f" (and {more} more)" if more else "")


@dataclass(frozen=True, kw_only=True)
class WeightChoice:
    """Chooses a part's weights: the fp16 files for fp16, else the plain ones, unless the user says which."""

    variant: str | None  # the user's: `none`, `fp16`, or what else files are named for; None leaves it to `half`
    half: bool  # whether fp16 files are taken where there are both
    progress: Progress

    def __call__(self, folder: Path) -> WeightSet:
        """The weights of the part in `folder`.

        Raises:
            CheckpointError: There are none, or two that differ and no variant that tells them apart was asked for.
        """
        sets = find_weights(folder)
        if not sets:
            raise CheckpointError(
                f"{folder} has no .safetensors weights; other formats are not loaded. Save the model again with "
                "save_pretrained(…, safe_serialization=True)."
            )
        if self.variant is not None:
            asked_for = [item for item in sets if (item.variant or PLAIN) == self.variant]
            usual = [item for item in asked_for if item.stem in USUAL_STEMS]
            sets = usual or asked_for or sets
        first, *others = sorted(sets, key=self._rank)
        for other in others:
            with self.progress.stage(f"compare {first.files[0].name} with {other.files[0].name} in {folder}"):
                found = difference(stored_tensors(first.files), stored_tensors(other.files))
            if found:
                raise CheckpointError(f"{first} and {other} hold different weights: {found}. {_remedy(first, other)}")
        return first

    @property
    def wanted(self) -> str:
        """The variant that is read of a part that has it."""
        return self.variant or ("fp16" if self.half else PLAIN)

    def _rank(self, item: WeightSet) -> tuple[bool, int, int, str]:
        order = ("fp16", None) if self.half else (None, "fp16")
        place = order.index(item.variant) if item.variant in order else len(order)
        return item.stem not in USUAL_STEMS, place, len(item.files), item.files[0].name


def find_weights(folder: Path) -> list[WeightSet]:
    """All sets of weights in the folder of a part.

    Raises:
        CheckpointError: A shard is missing, or an index cannot be read.
    """
    sets: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        sets.setdefault(SHARD.sub(r"-…-of-\g<count>", path.name), []).append(path)
    for name, files in sets.items():
        shard = SHARD.search(files[0].name)
        if shard and len(files) != int(shard["count"]):
            raise CheckpointError(
                f"{folder} has {len(files)} of the {int(shard['count'])} shards {name}. Download or save the model "
                "again, or remove them if other weights are meant."
            )
    for index in sorted(folder.glob("*.safetensors*index*.json")):
        listed = _listed(index)
        missing = [name for name in listed if not (folder / name).is_file()]
        if missing == listed:
            continue  # the index alone was downloaded
        if missing:
            raise CheckpointError(
                f"{index} lists {missing[0]}, which is not there. Download or save the model again, or remove the "
                "index and what it lists if other weights are meant."
            )
        if not any(SHARD.search(name) for name in listed):  # shards of names of their own
            sets = {key: files for key, files in sets.items() if not {path.name for path in files} <= set(listed)}
            sets[index.name] = [folder / name for name in listed]
    return [WeightSet(files=tuple(files)) for files in sets.values()]


def _listed(index: Path) -> list[str]:
    """The files that an index names, each once."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}. Download or save the model again.") from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names no files of its folder. Download or save the model again.")
    return names


def _remedy(one: WeightSet, other: WeightSet) -> str:
    move = "move the one that is not meant out of the folder"
    if one.variant == other.variant:
        return f"Only one can be meant: {move}."
    variants = " or ".join(item.variant or PLAIN for item in (one, other))
    return f"Say which with --variant {variants} (load_pretrained: variant=), or {move}."
