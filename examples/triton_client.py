"""Ask a Triton server for a video, watch its steps, write the MP4.

    python examples/triton_client.py photo.png clip.mp4 --set num_inference_steps=50 --set seed=3

It needs tritonclient[grpc], and nothing of vcut_trt. Ctrl-C ends the work on the server too.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton  # type: ignore[import-not-found]  # in the server's users' environments, not in ours
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]

INTERRUPTED = 130
Response = tuple[Any, InferenceServerException | None]


def request_inputs(client: Any, model: str, image: Path, settings: dict[str, str]) -> list[Any]:
    """The inputs of one request: the file as it is, and each setting in the type that the server says it has."""
    types = {tensor.name: tensor.datatype for tensor in client.get_model_metadata(model).inputs}
    unknown = sorted(settings.keys() - types.keys())
    if unknown:
        raise ValueError(f"the model has no input {', '.join(unknown)}; it has {', '.join(types)}")
    values = {name: one_element(types[name], text.encode()) for name, text in settings.items()}
    values["IMAGE"] = one_element("BYTES", image.read_bytes())
    inputs = []
    for name, value in values.items():
        tensor = triton.InferInput(name, value.shape, types[name])
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


def one_element(datatype: str, content: bytes) -> np.ndarray[Any, Any]:
    """An array of one element: a number, or the bytes as they are.

    INT64 carries a seed from 2⁶³ on as the negative number of the same 64 bits, which is the same seed to torch.
    """
    if datatype == "INT64":
        number = int(content)
        if not -(2**63) <= number < 2**64:
            raise OverflowError(f"{number} has more than 64 bits")
        return np.array([number], dtype=np.uint64 if number >= 2**63 else np.int64).view(np.int64)
    if datatype == "FP64":
        return np.array([float(content)], dtype=np.float64)
    return np.array([content], dtype=np.object_)


def receive_videos(responses: queue.Queue[Response]) -> list[bytes]:
    """Show every step, until the last response."""
    videos: list[bytes] = []
    while True:
        result, error = responses.get()
        if error is not None:
            raise error
        progress, video = result.as_numpy("PROGRESS"), result.as_numpy("VIDEO")
        if progress is not None:
            step = json.loads(progress[0])
            print("step {step} of {steps}: {stage}, seed {seed}".format(**step), file=sys.stderr, flush=True)
        if video is not None:
            videos = list(video)
        if result.get_response().parameters["triton_final_response"].bool_param:
            return videos


def write_videos(videos: list[bytes], output: Path) -> None:
    """Write `clip.mp4`, or `clip-1.mp4`, `clip-2.mp4` … where the bundle makes several at a time."""
    for index, video in enumerate(videos, start=1):
        path = output if len(videos) == 1 else output.with_name(f"{output.stem}-{index}{output.suffix}")
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(video)
        part.replace(path)
        print(path)


def main() -> int:
    """Make one request over a stream, which is how a decoupled model answers."""
    arguments = parse_arguments()
    responses: queue.Queue[Response] = queue.Queue()
    client = triton.InferenceServerClient(arguments.url)
    try:
        inputs = request_inputs(client, arguments.model, arguments.image, dict(arguments.set))
        client.start_stream(callback=lambda result, error: responses.put((result, error)))
        client.async_stream_infer(arguments.model, inputs)
        write_videos(receive_videos(responses), arguments.output)
    except KeyboardInterrupt:
        client.stop_stream(cancel_requests=True)
        print("cancelled", file=sys.stderr)
        return INTERRUPTED
    except (InferenceServerException, OSError, OverflowError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        client.close()
    return 0


def name_and_value(text: str) -> tuple[str, str]:
    """`seed=3` as a pair."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def parse_arguments() -> argparse.Namespace:
    """What to animate, and where the server is."""
    parser = argparse.ArgumentParser(description="Ask a Triton server for a video.")
    parser.add_argument("image", type=Path, help="JPEG, PNG or WEBP")
    parser.add_argument("output", type=Path, help="the video, .mp4")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC port")
    parser.add_argument("--model", default="vcut")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=name_and_value,
        help="an optional input of the model; repeatable",
    )
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
