"""Checkpoints of the Hugging Face hub: which names it has, and bringing their files to this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from vcut_trt.checkpoints.configs import CONFIG_FILES
from vcut_trt.checkpoints.folder import MODEL_PARTS
from vcut_trt.checkpoints.weights import PLAIN, WeightChoice, find_weights
from vcut_trt.errors import CheckpointError


def is_hub_id(name: str) -> bool:
    """Whether `name` is an owner and a repository, as the hub spells them."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not declared so

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def download(hub_id: str, revision: str | None, choice: WeightChoice, nor: str = "") -> Path:
    """Bring a hub repository's configurations and wanted weights into the hub library's cache, and say where they lie.

    Of a part that has none of the wanted weights, all are brought. Resumes, and respects offline mode.

    Args:
        hub_id: Owner and name.
        revision: A branch, tag or commit; None for the main branch.
        choice: Which weights are wanted.
        nor: What else the name could have meant and is not, to be told where the hub does not have it.

    Raises:
        CheckpointError: The repository or the revision does not exist, asks for a login, or cannot be reached.
    """
    configs = [f"{part}/{name}" for part, name in CONFIG_FILES.items()]
    variant = choice.wanted
    named = [f"*.{variant}*.safetensors*", f"*.safetensors*.{variant}*.json"]  # the file or its shards, and their index
    wanted = ["*.safetensors*"] if variant == PLAIN else named
    with _explained(hub_id, revision, nor):
        folder = _snapshot(
            hub_id,
            revision,
            [*configs, *(f"{part}/{pattern}" for part in MODEL_PARTS for pattern in wanted)],
            ignored=["*.fp16*"] if variant == PLAIN else None,
        )
        lacking = [part for part in MODEL_PARTS if not _has(folder / part, variant)]
        if lacking:
            folder = _snapshot(hub_id, revision, [*configs, *(f"{part}/*.safetensors*" for part in lacking)])
    return folder


def download_files(hub_id: str, revision: str | None, paths: list[str]) -> Path:
    """Bring just these files of a hub repository into the hub library's cache, and say where they lie.

    Raises:
        CheckpointError: See `download`.
    """
    with _explained(hub_id, revision, ""):
        return _snapshot(hub_id, revision, paths)


def _snapshot(hub_id: str, revision: str | None, allowed: list[str], ignored: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(hub_id, revision=revision, allow_patterns=allowed, ignore_patterns=ignored))


@contextmanager
def _explained(hub_id: str, revision: str | None, nor: str) -> Iterator[None]:
    """Tell what the hub, or the way to it, refuses."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # What a lost connection raises: the error of the HTTP library under the hub library, which has changed before.
    transport_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    login = "log in with `hf auth login` (or set HF_TOKEN) once you have accepted its licence on the hub"
    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(f"{hub_id} is gated: {login}, or pass a folder with --model FOLDER") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{hub_id} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no {hub_id} on the hub, or it is private: {login}.{nor}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{hub_id} is not in the local cache and the hub cannot be reached. Check the network and HF_HUB_OFFLINE, "
            f"pass a folder with --model FOLDER, or try --random-weights.{nor}"
        ) from error
    except (transport_error, OSError) as error:
        raise CheckpointError(
            f"cannot download {hub_id}: {error}. Run the command again to resume, or pass a folder with --model FOLDER."
            f"{nor}"
        ) from error


def _has(folder: Path, variant: str) -> bool:
    """Whether the folder of a part has weights of a variant."""
    return any((weights.variant or PLAIN) == variant for weights in find_weights(folder))
