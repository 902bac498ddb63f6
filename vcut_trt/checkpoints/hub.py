"""Checkpoints of the Hugging Face hub: which names it has, and bringing their files to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from vcut_trt.checkpoints.folder import CONFIG_FILES, MODEL_PARTS
from vcut_trt.errors import CheckpointError
from vcut_trt.spec.precision import Precision


def is_hub_id(name: str) -> bool:
    """Whether `name` is an owner and a repository, as the hub spells them."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not declared so

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def download(hub_id: str, revision: str | None, precision: Precision) -> Path:
    """Bring the wanted files of a hub repository into the hub library's cache; resumes, and respects offline mode."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    configs = [f"{part}/{name}" for part, name in CONFIG_FILES.items()]
    # What a lost connection raises: the error of the HTTP library under the hub library, which has changed before.
    transport_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])

    def fetch(pattern: str) -> Path:
        weights = [f"{part}/{pattern}" for part in MODEL_PARTS]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[*configs, *weights]))

    login = "log in with `hf auth login` (or set HF_TOKEN) once you have accepted its licence on the hub"
    try:
        if precision.row.half_weights:
            folder = fetch("*.fp16*.safetensors*")
            if all(any((folder / part).glob("*.fp16*.safetensors")) for part in MODEL_PARTS):
                return folder
        return fetch("*.safetensors*")
    except GatedRepoError as error:
        raise CheckpointError(f"{hub_id} is gated: {login}, or pass a folder with --model FOLDER") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{hub_id} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no {hub_id} on the hub, or it is private: {login}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{hub_id} is not in the local cache and the hub cannot be reached. Check the network and HF_HUB_OFFLINE, "
            "pass a folder with --model FOLDER, or try --random-weights."
        ) from error
    except (transport_error, OSError) as error:
        raise CheckpointError(
            f"cannot download {hub_id}: {error}. Run the command again to resume, or pass a folder with --model FOLDER."
        ) from error
