"""From the body of a request to a form: fields as text, and a picture that nobody has looked at yet.

    multipart/form-data    fields; a picture is a file, or a data URL in a field
    application/json       the same fields; {"input_reference": {"image_url": "data:…"}} is the field
                           input_reference[image_url], which is how the openai SDK writes it in a form

A body lies on disk until its turn to be read comes, so that memory holds those whose turn it is. Pictures come with the
request: nobody makes this server fetch.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from vcut_trt.serving.api.errors import ApiError

PICTURE_FIELDS = ("image", "input_reference")
MOST_FIELDS = 32
LONGEST_FIELD_BYTES = 16 * 1024  # of those that hold no picture
IN_MEMORY_BYTES = 2**20  # of a body that waits
CHUNK_BYTES = 64 * 1024
FORM, JSON = "multipart/form-data", "application/json"
CHARSETS = ("utf-8", "utf8", "us-ascii")
EXAMPLE = "data:image/png;base64,…"

Fields = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a client sent."""

    fields: Fields  # in their order, those of the picture left out
    picture: BinaryIO


@contextlib.asynccontextmanager
async def received(request: Request, seconds: float) -> AsyncIterator[IO[bytes]]:
    """The whole body of a request, beyond a MiB on disk.

    Raises:
        ApiError: 415: neither a form nor JSON; 408: it took longer than `seconds`; 507: the disk is full.
    """
    _check_kind(request)
    with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as body:
        try:
            await asyncio.wait_for(_receive(request, body), seconds)
        except asyncio.TimeoutError:  # Python 3.10 has one of its own
            raise ApiError(408, f"the upload took longer than {seconds:g} s") from None
        except ClientDisconnect:  # nobody reads the answer
            raise ApiError(400, "the client hung up") from None
        except OSError as error:
            raise _no_space(error) from error
        body.seek(0)
        yield body


@contextlib.asynccontextmanager
async def read_form(request: Request, body: IO[bytes], most_bytes: int) -> AsyncIterator[Form]:
    """The form in a body.

    Raises:
        ApiError: 400: it is broken; 413: its picture has more than `most_bytes`; 422: a field is at fault; 507: the
            disk is full.
    """
    async with contextlib.AsyncExitStack() as stack:
        if _kind(request) == JSON:
            items: list[tuple[str, Any]] = list(await run_in_threadpool(json_items, body))
        else:
            form = Request(request.scope, _replaying(body)).form(
                max_files=2, max_fields=MOST_FIELDS, max_part_size=_base64_bytes(most_bytes) + LONGEST_FIELD_BYTES
            )
            try:
                items = (await stack.enter_async_context(form)).multi_items()
            except OSError as error:
                raise _no_space(error) from error
        yield await run_in_threadpool(_form_of, items, most_bytes)


def json_items(body: IO[bytes]) -> Fields:
    """The fields of a JSON object, by the names that they have in a form.

    Raises:
        ApiError: 400: it is none.
    """
    try:
        value = json.loads(body.read().decode("utf-8"), **_AS_TEXT)
        if not isinstance(value, _Object):
            raise ApiError(400, "the body is no JSON object")
        items = list(_flat(value))
    except RecursionError:
        raise ApiError(400, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if len(items) > MOST_FIELDS + 1:
        raise ApiError(400, f"the JSON has {len(items)} fields; at most {MOST_FIELDS} are read")
    return items


class _Object(list[tuple[str, Any]]):
    """A JSON object as it stands there: a name may come twice, which is told as it is for a form."""


def _no_number(text: str) -> str:
    raise ValueError(f"{text} is no number")


_AS_TEXT: dict[str, Any] = {
    "object_pairs_hook": _Object,
    "parse_int": str,
    "parse_float": str,
    "parse_constant": _no_number,
}


def _flat(value: _Object, outer: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value:
        name = f"{outer}[{key}]" if outer else key
        if isinstance(inner, list) and not isinstance(inner, _Object):
            inner = _Object([("", item) for item in inner])
        if isinstance(inner, _Object):
            yield from _flat(inner, name) if inner else ((name, "{}"),)
        elif inner is not None:
            yield name, str(inner).lower() if isinstance(inner, bool) else str(inner)


def _form_of(items: list[tuple[str, str | UploadFile]], most_bytes: int) -> Form:
    fields: Fields = []
    pictures: list[BinaryIO] = []
    for name, value in items:
        field, _, key = name.partition("[")
        if field in PICTURE_FIELDS:
            pictures.append(_picture(field, key, value, most_bytes))
        elif not isinstance(value, str):
            raise ApiError(422, f"{name} is a file; the picture's field is {PICTURE_FIELDS[0]}", param=name)
        elif len(value) > LONGEST_FIELD_BYTES:
            message = f"{name[:100]} has {len(value):,} characters; at most {LONGEST_FIELD_BYTES:,} are read"
            raise ApiError(422, message, param=name[:100])
        else:
            fields.append((name, value))
    if len(pictures) != 1:
        names = " or ".join(PICTURE_FIELDS)
        raise ApiError(422, f"there are {len(pictures)} pictures; one is needed, {names}", param=PICTURE_FIELDS[0])
    return Form(fields=fields, picture=pictures[0])


def _picture(field: str, key: str, value: str | UploadFile, most_bytes: int) -> BinaryIO:
    if isinstance(value, UploadFile):
        _check_size(value.size or 0, most_bytes)
        return value.file
    if key not in ("", "image_url]", "file_id]"):
        name = f"{field}[{key[:100]}"
        raise ApiError(422, f"{name} is not known; send {EXAMPLE} as {field}[image_url]", param=name)
    if key == "file_id]":
        raise ApiError(422, f"{field}.file_id: this server keeps no files; send {EXAMPLE} as image_url", param=field)
    head, comma, data = value.partition(",")
    if not head.lower().startswith("data:"):
        message = (
            f"{field} is neither a file nor a data URL but {value[:40]!r}; nothing is fetched or looked up here: "
            f"send the picture itself, {EXAMPLE}, or as a file of a form"
        )
        raise ApiError(422, message, param=field)
    if not (comma and head.lower().endswith(";base64")):
        raise ApiError(422, f"{field} is a data URL without base64; send {EXAMPLE}", param=field)
    _check_size(3 * len(data) // 4 - data[-2:].count("="), most_bytes)
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, f"{field}: the base64 of the data URL is damaged: {error}", param=field) from None


def _no_space(error: OSError) -> ApiError:
    return ApiError(507, f"the upload cannot be kept: {error.strerror}", headers={"Retry-After": "60"})


def _check_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        message = f"the picture has {size:,} bytes; at most {most_bytes:,} bytes are taken in"
        raise ApiError(413, message, param=PICTURE_FIELDS[0])


def _base64_bytes(size: int) -> int:
    """How long `size` bytes are as base64."""
    return 4 * ((size + 2) // 3)


def largest_body(most_bytes: int) -> int:
    """The bytes of a body with the largest picture, as base64, and its other fields."""
    return _base64_bytes(most_bytes) + 4 * LONGEST_FIELD_BYTES


def _options(request: Request) -> tuple[str, dict[bytes, bytes]]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    return kind.decode("latin-1").strip().lower(), options


def _kind(request: Request) -> str:
    return _options(request)[0]


def _check_kind(request: Request) -> None:
    kind, options = _options(request)
    if kind not in (FORM, JSON):
        raise ApiError(415, f"the body is {kind[:100] or 'of no type'}; send {FORM} or {JSON}")
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in CHARSETS:
        raise ApiError(415, f"the body's charset is {charset[:100]}; send UTF-8")


async def _receive(request: Request, body: IO[bytes]) -> None:
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > IN_MEMORY_BYTES:
            await run_in_threadpool(body.write, chunk)
        else:
            body.write(chunk)


def _replaying(body: IO[bytes]) -> Any:
    """An ASGI `receive` that gives a body again."""

    async def receive() -> Message:
        chunk = body.read(CHUNK_BYTES)
        return {"type": "http.request", "body": chunk, "more_body": len(chunk) == CHUNK_BYTES}

    return receive
