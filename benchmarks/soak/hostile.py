"""Uploads that nobody should send: mutated images, forms, headers and paths. Each is made from a seed."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

BOUNDARY = "soak"


@dataclass(frozen=True, kw_only=True)
class HostileRequest:
    """A POST to /v1/videos."""

    kind: str
    body: bytes
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}"


def make_hostile(seed: int) -> HostileRequest:
    """The hostile request of a seed; seeds that follow each other go through all kinds."""
    source = random.Random(seed)  # noqa: S311  # no secret
    kind = KINDS[seed % len(KINDS)]
    return kind(source)


def picture(kind: str = "PNG", size: tuple[int, int] = (96, 64), seed: int = 0) -> bytes:
    """A good picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def form(image: bytes, fields: dict[str, str] | None = None, *, name: str = "image", end: bool = True) -> bytes:
    """A multipart body."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="x.png"\r\n\r\n'.encode() + image
    ]
    for field, value in (fields or {"num_inference_steps": "2"}).items():
        parts.append(
            f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}'.encode(
                "utf-8", "surrogatepass"
            )
        )
    return b"".join(parts) + (f"\r\n--{BOUNDARY}--\r\n".encode() if end else b"")


def _flipped(source: random.Random) -> HostileRequest:
    """A picture with wrong bytes: perhaps still one."""
    content = bytearray(picture(source.choice(("PNG", "JPEG", "WEBP"))))
    for _ in range(source.randint(1, 40)):
        content[source.randrange(len(content))] = source.randrange(256)
    return HostileRequest(kind="flipped bytes", body=form(bytes(content)))


def _truncated(source: random.Random) -> HostileRequest:
    content = picture(source.choice(("PNG", "JPEG", "WEBP")))
    return HostileRequest(kind="truncated picture", body=form(content[: source.randrange(len(content))]))


def _noise(source: random.Random) -> HostileRequest:
    return HostileRequest(kind="noise for a picture", body=form(source.randbytes(source.randint(0, 3000))))


def _bomb(source: random.Random) -> HostileRequest:
    stream = io.BytesIO()
    Image.new("1", (source.randint(20_000, 60_000), 10_000)).save(stream, format="PNG")
    return HostileRequest(kind="pixel bomb", body=form(stream.getvalue()))


def _oversized(source: random.Random) -> HostileRequest:
    return HostileRequest(kind="too many bytes", body=form(bytes(source.randint(1_200_000, 3_000_000))))


def _wrong_format(source: random.Random) -> HostileRequest:
    return HostileRequest(kind="other format", body=form(picture(source.choice(("GIF", "BMP", "TIFF", "PPM", "ICO")))))


def _bad_field(source: random.Random) -> HostileRequest:
    name, value = source.choice(BAD_FIELDS)
    return HostileRequest(kind="bad field", body=form(picture(), {"num_inference_steps": "2", name: value}))


def _many_fields(source: random.Random) -> HostileRequest:
    fields = {f"f{index}": "x" * source.randint(0, 50) for index in range(source.randint(33, 400))}
    return HostileRequest(kind="too many fields", body=form(picture(), fields))


def _long_field(source: random.Random) -> HostileRequest:
    return HostileRequest(kind="long field", body=form(picture(), {"prompt": "x" * source.randint(20_000, 60_000)}))


def _cut_form(source: random.Random) -> HostileRequest:
    body = form(picture())
    return HostileRequest(kind="form cut short", body=body[: source.randrange(len(body) - 6)])


def _mutated_form(source: random.Random) -> HostileRequest:
    """The frame of the form with wrong bytes: perhaps still one."""
    body = bytearray(form(picture()))
    for _ in range(source.randint(1, 12)):
        body[source.randrange(110)] = source.randrange(256)
    return HostileRequest(kind="mutated form", body=bytes(body))


def _no_boundary(source: random.Random) -> HostileRequest:
    kind = source.choice(("multipart/form-data", "multipart/form-data; boundary=", "application/json", "text/html", ""))
    return HostileRequest(kind="other content type", body=form(picture()), content_type=kind)


def _broken_json(source: random.Random) -> HostileRequest:
    """JSON with wrong bytes, or of a strange shape."""
    shapes = ("[" * 50_000, '{"a":' * 20_000, "{}", "[]", "null", '{"seed": NaN}', f'{{"seed": {"9" * 5000}}}')
    body = bytearray(data_url_form(picture()) if source.random() < 0.5 else source.choice(shapes).encode())
    for _ in range(source.randint(0, 8)):
        body[source.randrange(min(len(body), 60))] = source.randrange(256)
    return HostileRequest(kind="broken JSON", body=bytes(body), content_type="application/json")


def _url_to_fetch(source: random.Random) -> HostileRequest:
    """A picture that the server should fetch, or look up on its disk."""
    body = json.dumps({"input_reference": {"image_url": source.choice(URLS)}}).encode()
    return HostileRequest(kind="URL to fetch", body=body, content_type="application/json")


def data_url_form(image: bytes) -> bytes:
    """A JSON body with a good picture."""
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return json.dumps({"num_inference_steps": 2, "input_reference": {"image_url": url}}).encode()


def _path_for_a_name(source: random.Random) -> HostileRequest:
    """A file name that is a path: it must touch nothing."""
    name = source.choice(("../../../../tmp/x", "/etc/passwd", "..\\\\..\\\\x", "a\0b", "x" * 5000))
    body = form(picture()).replace(b'filename="x.png"', f'filename="{name}"'.encode())
    return HostileRequest(kind="path for a file name", body=body)


URLS = (
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:8000/metrics",
    "file:///etc/passwd",
    "/etc/passwd",
    "data:image/png;base64," + "A" * 1000,
    "data:text/html,<script>",
    "\ud800",
)
BAD_FIELDS = [
    ("seed", "-1"),
    ("seed", "9" * 4000),
    ("seed", "0x10"),
    ("seed", "١٢"),
    ("num_inference_steps", "1e9"),
    ("cut_step", "99999999999999999999"),
    ("fps", "NaN"),
    ("noise_aug_strength", "Infinity"),
    ("noise_aug_strength", "1e400"),
    ("fit", "\u202ecrop"),
    ("size", "1x1; rm -rf /"),
    ("timeout_seconds", "-0.0"),
    ("__proto__", "{}"),
    ("image_url", "file:///etc/passwd"),
    ("model", "../../x"),
    ("min_guidance_scale", "0x1p9999"),
]
KINDS: list[Callable[[random.Random], HostileRequest]] = [
    _flipped,
    _truncated,
    _noise,
    _bomb,
    _oversized,
    _wrong_format,
    _bad_field,
    _many_fields,
    _long_field,
    _cut_form,
    _mutated_form,
    _no_boundary,
    _path_for_a_name,
    _broken_json,
    _url_to_fetch,
]
