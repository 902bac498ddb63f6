"""`.safetensors` files: what their headers say, and a model's parameters out of them, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vcut_trt.errors import CheckpointError

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str  # as the format spells it: F32


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, open, for its keys and tensors.

    Raises:
        CheckpointError: It is missing, damaged, or not a .safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Download or save the file again.") from error


def read_header(path: Path) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """The tensors of a file, by key, and its metadata. No tensor is read.

    Raises:
        CheckpointError: It is missing, damaged, or not a .safetensors file.
    """
    with opened(path) as file:
        slices: dict[str, Any] = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        headers = {
            key: TensorHeader(shape=tuple(part.get_shape()), dtype=part.get_dtype()) for key, part in slices.items()
        }
        return headers, dict(file.metadata() or {})


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    key: str
    header: TensorHeader


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """The tensors of a file, or of all shards of a model, by key.

    Raises:
        CheckpointError: A file cannot be read, or two hold the same key.
    """
    found: dict[str, StoredTensor] = {}
    for path in files:
        headers, _metadata = read_header(path)
        for key, header in headers.items():
            if key in found:
                raise CheckpointError(f"{path} and {found[key].path} both hold {key}. Save the model again.")
            found[key] = StoredTensor(path=path, key=key, header=header)
    return found


def read_tensors(tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its name, file by file.

    Raises:
        CheckpointError: A file cannot be read.
    """
    for path in dict.fromkeys(tensor.path for tensor in tensors.values()):
        with opened(path) as file:
            for name, tensor in tensors.items():
                if tensor.path == path:
                    yield name, file.get_tensor(tensor.key)


def fill(module: Module, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Module:
    """Give `module`, made without storage, its parameters, in `dtype` and as they come; then it is ready to run.

    Args:
        module: An empty model of `checkpoints.parts`, whose keys `checkpoints.keys.check_keys` has compared.
        tensors: Each parameter once, by its name in the module.
        dtype: Of the parameters.
    """
    waiting = {name for name, _parameter in module.named_parameters()}
    for name, tensor in tensors:
        waiting.remove(name)
        owner_name, _, leaf = name.rpartition(".")
        values = tensor.to(dtype).contiguous()
        setattr(module.get_submodule(owner_name), leaf, nn.Parameter(values, requires_grad=False))
    assert not waiting, waiting
    return module.eval()
