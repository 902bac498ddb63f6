from __future__ import annotations

import importlib
import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from PIL import Image

from tests.serving.triton.triton_home import home_folder
from tests.serving.triton.triton_server import TritonServer, running_server, why_not
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import BundleError, ConfigError, ServingError
from vcut_trt.runtime.generate import GenerateConfig, generate_videos
from vcut_trt.runtime.image import load_image
from vcut_trt.serving.triton.repository import BundleFiles, TritonConfig, write_repository
from vcut_trt.spec.clip import ClipDefaults, ClipSettings, Fit
from vcut_trt.spec.interface import GraphName

PATIENCE_SECONDS = 300  # a guard against hanging only
FIELD = descriptor_pb2.FieldDescriptorProto
MODEL_CONFIG: dict[str, dict[str, Any]] = {
    # Triton's model_config.proto, as far as we write it: message -> field -> type, in brackets where repeated
    "Value": {"string_value": str},
    "Entry": {"key": str, "value": "Value"},
    "Policy": {"decoupled": bool},
    "Group": {"count": int, "kind": str.upper, "gpus": [int]},
    "Input": {"name": str, "data_type": str.upper, "dims": [int], "optional": bool},
    "Output": {"name": str, "data_type": str.upper, "dims": [int]},
    "ModelConfig": {
        "name": str,
        "backend": str,
        "max_batch_size": int,
        "model_transaction_policy": "Policy",
        "instance_group": ["Group"],
        "input": ["Input"],
        "output": ["Output"],
        "parameters": ["Entry"],
    },
}
ENUMERATORS = (
    *("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
    *("TYPE_BOOL", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING"),
)


def model_config_type() -> Any:
    """A message type that protobuf's own text reader is strict about: unknown names and wrong types are errors."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="t", syntax="proto3")
    enum = file.enum_type.add(name="Word")
    for number, name in enumerate(ENUMERATORS):
        enum.value.add(name=name, number=number)
    scalars = {str: FIELD.TYPE_STRING, int: FIELD.TYPE_INT64, bool: FIELD.TYPE_BOOL, str.upper: FIELD.TYPE_ENUM}
    for message, names in MODEL_CONFIG.items():
        described = file.message_type.add(name=message)
        for number, (name, kind) in enumerate(names.items(), start=1):
            label = FIELD.LABEL_REPEATED if isinstance(kind, list) else FIELD.LABEL_OPTIONAL
            (item,) = kind if isinstance(kind, list) else (kind,)
            added = described.field.add(name=name, number=number, label=label)
            added.type = FIELD.TYPE_MESSAGE if isinstance(item, str) else scalars[item]
            if added.type == FIELD.TYPE_MESSAGE:
                added.type_name = f".t.{item}"
            elif added.type == FIELD.TYPE_ENUM:
                added.type_name = ".t.Word"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))


def read_config(repository: Path, name: str = "vcut") -> Any:
    text = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_type()())


def word(number: int) -> str:
    return ENUMERATORS[number]


def parameters(config: Any) -> dict[str, str]:
    return {entry.key: entry.value.string_value for entry in config.parameters}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_repository_names_its_bundle_and_every_setting(nano_bundle: Bundle, tmp_path: Path) -> None:
    place = write_repository(TritonConfig(bundle=nano_bundle, output=tmp_path / "repo"))
    assert place == tmp_path / "repo"
    assert files_in(place) == {"vcut/config.pbtxt", "vcut/1/model.py"}
    config = read_config(place)
    assert (config.name, config.backend, config.max_batch_size) == ("vcut", "python", 0)
    assert config.model_transaction_policy.decoupled
    image, *settings = config.input
    assert (image.name, word(image.data_type), list(image.dims), image.optional) == ("IMAGE", "TYPE_STRING", [1], False)
    assert {(field.name, word(field.data_type), tuple(field.dims), field.optional) for field in settings} == {
        ("num_inference_steps", "TYPE_INT64", (1,), True),
        ("cut_step", "TYPE_INT64", (1,), True),
        ("seed", "TYPE_INT64", (1,), True),
        ("fps", "TYPE_INT64", (1,), True),
        ("motion_bucket_id", "TYPE_INT64", (1,), True),
        ("noise_aug_strength", "TYPE_FP64", (1,), True),
        ("min_guidance_scale", "TYPE_FP64", (1,), True),
        ("max_guidance_scale", "TYPE_FP64", (1,), True),
        ("fit", "TYPE_STRING", (1,), True),
        *(
            (name, "TYPE_STRING", (1,), True)
            for name in ("grid", "solver", "sigmas", "shallow_steps", "after_cut", "preset")
        ),
    }
    assert {field.name for field in settings} == {*(field.name for field in fields(ClipSettings)), "preset"}
    assert [(field.name, word(field.data_type), list(field.dims)) for field in config.output] == [
        ("PROGRESS", "TYPE_STRING", [1]),
        ("VIDEO", "TYPE_STRING", [1]),
    ]
    assert parameters(config) == {
        "bundle": str(nano_bundle.root.resolve()),
        "backend": "auto",
        "residency": "auto",
        "cuda_graphs": "true",
        "warm_up": "auto",
    }


@pytest.mark.parametrize(
    ("device", "kind", "gpus"),
    [
        ("auto", "KIND_AUTO", []),
        ("cpu", "KIND_CPU", []),
        ("cuda", "KIND_GPU", []),
        ("cuda:0", "KIND_GPU", [0]),
        ("cuda:13", "KIND_GPU", [13]),
    ],
)
def test_the_device_decides_where_triton_puts_the_instance(
    nano_bundle: Bundle, tmp_path: Path, device: str, kind: str, gpus: list[int]
) -> None:
    place = write_repository(TritonConfig(bundle=nano_bundle, output=tmp_path / "repo", device=device))
    (group,) = read_config(place).instance_group
    assert (group.count, word(group.kind), list(group.gpus)) == (1, kind, gpus)


def test_paths_with_quotes_and_backslashes_survive(nano_bundle: Bundle, tmp_path: Path) -> None:
    root = tmp_path / 'a "b" \\n ü'
    shutil.copytree(nano_bundle.root, root)
    place = write_repository(TritonConfig(bundle=Bundle.open(root), output=tmp_path / "repo"))
    assert parameters(read_config(place))["bundle"] == str(root)


def test_a_copied_bundle_lies_beside_the_model_whole_and_without_strangers(nano_bundle: Bundle, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(nano_bundle.root, root)
    (root / "notes.txt").write_text("not the bundle's")
    config = TritonConfig(
        bundle=Bundle.open(root), output=tmp_path / "repo", name="nano-1", bundle_files=BundleFiles.COPY
    )
    place = write_repository(config)
    assert files_in(place / "nano-1/1/bundle") == files_in(nano_bundle.root)
    assert parameters(read_config(place, "nano-1"))["bundle"] == "bundle"


def test_a_repository_is_replaced_by_a_new_one(nano_bundle: Bundle, tmp_path: Path) -> None:
    output = tmp_path / "repo"
    output.mkdir()  # empty: anybody's
    write_repository(TritonConfig(bundle=nano_bundle, output=output, name="one", bundle_files=BundleFiles.COPY))
    copied = Bundle.open(output / "one/1/bundle")
    with pytest.raises(ConfigError, match="about to be replaced. Use --copy-bundle"):
        write_repository(TritonConfig(bundle=copied, output=output))
    assert copied.root.is_dir()
    write_repository(TritonConfig(bundle=copied, output=output, bundle_files=BundleFiles.COPY))
    write_repository(TritonConfig(bundle=nano_bundle, output=output, name="two"))
    assert files_in(output) == {"two/config.pbtxt", "two/1/model.py"}
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


@pytest.mark.parametrize("foreign", ["config.pbtxt", "other/config.pbtxt", "vcut/notes.txt", "vcut/config.pbtxt"])
def test_what_others_made_is_left_alone(nano_bundle: Bundle, tmp_path: Path, foreign: str) -> None:
    output = tmp_path / "repo"
    (output / foreign).parent.mkdir(parents=True)
    (output / foreign).write_text('name: "mine"')
    with pytest.raises(ServingError, match="left alone. Choose another --output"):
        write_repository(TritonConfig(bundle=nano_bundle, output=output))
    assert files_in(tmp_path) == {f"repo/{foreign}"}


def test_a_repository_with_a_further_model_and_a_file_are_left_alone(nano_bundle: Bundle, tmp_path: Path) -> None:
    output = write_repository(TritonConfig(bundle=nano_bundle, output=tmp_path / "repo"))
    (output / "resnet").mkdir()
    with pytest.raises(ServingError, match="with its one model; it is left alone"):
        write_repository(TritonConfig(bundle=nano_bundle, output=output))
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="left alone"):
        write_repository(TritonConfig(bundle=nano_bundle, output=tmp_path / "file"))
    assert files_in(tmp_path) == {"repo/vcut/config.pbtxt", "repo/vcut/1/model.py", "file"}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_damaged_bundle_leaves_the_old_repository_and_no_debris(
    nano_bundle: Bundle, tmp_path: Path, damage: Any
) -> None:
    root, output = tmp_path / "bundle", tmp_path / "repo"
    shutil.copytree(nano_bundle.root, root)
    bundle = Bundle.open(root)
    write_repository(TritonConfig(bundle=bundle, output=output))
    before = (output / "vcut/config.pbtxt").read_text()
    damage(bundle.path(bundle.manifest.graphs[GraphName.VAE_DECODER].weights))
    with pytest.raises((ServingError, BundleError), match="decoder"):
        write_repository(TritonConfig(bundle=bundle, output=output, bundle_files=BundleFiles.COPY))
    assert files_in(output) == {"vcut/config.pbtxt", "vcut/1/model.py"}
    assert (output / "vcut/config.pbtxt").read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "repo"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../x"}, "cannot name a model"),
        ({"name": ""}, "cannot name a model"),
        ({"name": ".vcut"}, "cannot name a model"),
        ({"device": "gpu"}, "use auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:-1"}, "use auto, cpu, cuda or cuda:N"),
        ({"device": "cpu", "backend": Backend.TENSORRT}, "use --backend onnxruntime"),
        ({"backend": Backend.TENSORRT}, "make some with vcut build"),
    ],
)
def test_what_cannot_work_is_refused(nano_bundle: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TritonConfig(bundle=nano_bundle, output=Path("repo"), **changes)


def test_settings_that_a_request_leaves_out_are_those_of_the_server() -> None:
    first, second = ClipSettings.of({}, ClipDefaults()), ClipSettings.of({}, ClipDefaults())
    assert (first.num_inference_steps, first.cut_step, first.fps, first.fit) == (25, 17, 7, Fit.CROP)
    assert first.seed != second.seed
    assert ClipSettings.of({"num_inference_steps": 50}, ClipDefaults()).cut_step == 33
    given = ClipSettings.of({"num_inference_steps": 4, "cut_step": 5, "seed": 3, "fit": "stretch"}, ClipDefaults())
    assert given == ClipSettings(num_inference_steps=4, cut_step=5, seed=3, fit=Fit.STRETCH)
    with pytest.raises(ConfigError, match="fit is 'wide'; use crop, stretch"):
        ClipSettings.of({"fit": "wide"}, ClipDefaults())
    with pytest.raises(ConfigError, match="num_inference_steps is 0"):
        ClipSettings.of({"num_inference_steps": 0}, ClipDefaults())


# The model on a stand-in of Triton's module: what a real server cannot be made to do at will.


class Sender:
    """Keeps what is sent; the request is cancelled once `cancelled_after` responses have gone out."""

    def __init__(self, cancelled_after: int | None) -> None:
        self.sent: list[Any] = []
        self.flags: list[int] = []
        self._cancelled_after = cancelled_after

    def send(self, response: Any, flags: int = 0) -> None:
        assert self.flags.count(1) == 0, "a response after the last one"
        self.sent.append(response)
        self.flags.append(flags)

    def is_cancelled(self) -> bool:
        return self._cancelled_after is not None and len(self.sent) >= self._cancelled_after

    @property
    def last(self) -> Any:
        assert self.flags[-1] == 1
        return self.sent[-1]


class Request:
    def __init__(
        self, *, outputs: tuple[str, ...] = ("PROGRESS", "VIDEO"), cancelled_after: int | None = None, **inputs: Any
    ) -> None:
        self.sender = Sender(cancelled_after)
        self.inputs = inputs
        self.outputs = outputs

    def get_response_sender(self) -> Sender:
        return self.sender

    def requested_output_names(self) -> tuple[str, ...]:
        return self.outputs


def standin() -> ModuleType:
    class Tensor(SimpleNamespace):
        def __init__(self, name: str, values: Any) -> None:
            super().__init__(name=name, values=values, as_numpy=lambda: np.asarray(values))

        @classmethod
        def from_dlpack(cls, name: str, tensor: torch.Tensor) -> Tensor:
            return cls(name, tensor)

    class TritonError(SimpleNamespace):
        CANCELLED, INVALID_ARG, INTERNAL = range(3)

        def __init__(self, message: str, code: int) -> None:
            super().__init__(message=message, code=code)

    class InferenceResponse(SimpleNamespace):
        def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
            super().__init__(outputs={tensor.name: tensor.values for tensor in output_tensors}, error=error)

    class MetricFamily:
        COUNTER = 0

        def __init__(self, name: str, description: str, kind: int) -> None:
            self.name = name

        def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802  # Triton's name
            key = (self.name, labels.get("outcome") or labels.get("stage"))
            return SimpleNamespace(
                increment=lambda amount: module.counters.__setitem__(key, module.counters.get(key, 0) + amount)
            )

    def get_input_tensor_by_name(request: Request, name: str) -> Any:
        if name not in request.inputs:
            return None
        return SimpleNamespace(as_numpy=lambda: np.array([request.inputs[name]], dtype=np.object_))

    module: Any = ModuleType("triton_python_backend_utils")
    logger = SimpleNamespace(log_info=print, log_warn=print, log_error=print)
    module.counters = {}
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    for kind in (Tensor, TritonError, InferenceResponse, MetricFamily, get_input_tensor_by_name):
        setattr(module, kind.__name__, kind)
    module.Logger = logger
    return module


@pytest.fixture(scope="module")
def opened_model(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The model, initialized as Triton would, with `.utils` the stand-in."""
    utils = standin()
    log = logging.getLogger("vcut_trt")
    level, handlers = log.level, log.handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, utils.__name__, utils)
        patch.delitem(sys.modules, "vcut_trt.serving.triton.model", raising=False)
        module = importlib.import_module("vcut_trt.serving.triton.model")
        patch.setattr(module, "end_with_server", lambda: None)  # it would watch over pytest's own parent
        place = write_repository(TritonConfig(bundle=nano_bundle, output=tmp_path_factory.mktemp("model") / "repo"))
        model = module.TritonPythonModel()
        values = {key: {"string_value": value} for key, value in parameters(read_config(place)).items()}
        model.args = {
            "model_config": {"parameters": values},
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_name": "vcut",
            "model_version": "1",
            "model_repository": str(place / "vcut"),
        }
        model.initialize({**model.args, "model_config": json.dumps(model.args["model_config"])})
        model.utils, model.module = utils, module
        yield model
        model.finalize()
        sys.modules.pop(module.__name__)
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.fixture
def model(opened_model: Any) -> Any:
    """The model, with its counters at zero."""
    opened_model.utils.counters.update(dict.fromkeys(opened_model.utils.counters, 0))
    return opened_model


def encoded(kind: str) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(content, format=kind)
    return content.getvalue()


def png() -> bytes:
    return encoded("PNG")


def outcomes(model: Any) -> dict[str, float]:
    return {key: value for (name, key), value in model.utils.counters.items() if name == "vcut_videos_total"}


def test_counters_are_there_from_the_start(model: Any) -> None:
    model.utils.counters.clear()
    model.module.ModelMetrics("vcut", "1")
    outcomes = ("completed", "failed", "cancelled")
    stages = ("semantic binding", "quality improvement")
    assert model.utils.counters == {
        **{(f"vcut_videos_{what}", outcome): 0 for what in ("total", "seconds_total") for outcome in outcomes},
        **{(f"vcut_steps_{what}", stage): 0 for what in ("total", "seconds_total") for stage in stages},
    }


def test_an_unexpected_error_is_answered_and_the_next_request_is_made(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError("secret of the inside")

    bad, good = Request(IMAGE=png()), Request(IMAGE=png(), num_inference_steps=2, outputs=("VIDEO",))
    with monkeypatch.context() as patch:
        patch.setattr(model.module, "animate", broken)
        model.execute([bad])
    assert bad.sender.last.error.message == "the model failed unexpectedly; the server's log has the details"
    assert bad.sender.last.error.code == model.utils.TritonError.INTERNAL
    assert "secret of the inside" in capsys.readouterr().out  # Triton's log
    model.execute([good])
    assert good.sender.sent == [good.sender.last], "progress that nobody asked for"
    assert good.sender.last.error is None
    assert outcomes(model) == {"completed": 1, "failed": 1, "cancelled": 0}


@pytest.mark.parametrize(("after", "message"), [(0, "before its first step"), (2, "after step 2 of 4")])
def test_a_cancelled_request_ends_after_the_step_at_work(model: Any, after: int, message: str) -> None:
    request = Request(IMAGE=png(), num_inference_steps=4, cut_step=2, cancelled_after=after)
    model.execute([request])
    assert len(request.sender.sent) == after + 1
    assert request.sender.last.error.message == f"the request was cancelled {message}"
    assert request.sender.last.error.code == model.utils.TritonError.CANCELLED
    assert outcomes(model) == {"completed": 0, "failed": 0, "cancelled": 1}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "IMAGE, 0 bytes, is not a JPEG, PNG, WEBP file"),
        (encoded("GIF"), "is not a JPEG, PNG, WEBP file"),
        (png()[:120], "cannot be read to its end"),
        (None, "the request has no IMAGE"),
    ],
)
def test_images_that_are_none_are_the_clients_fault(model: Any, image: bytes | None, message: str) -> None:
    request = Request(seed=1) if image is None else Request(IMAGE=image)
    model.execute([request])
    assert message in request.sender.last.error.message
    assert request.sender.last.error.code == model.utils.TritonError.INVALID_ARG


def test_too_many_pixels_are_refused_before_they_are_decoded(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.module, "LARGEST_PIXELS", 96 * 64 - 1)
    with pytest.raises(model.module.ImageError, match="96 × 64 pixels; at most 6,143 are read"):
        model.module.decode_image(png())


def test_images_are_read_as_generate_reads_them(model: Any, tmp_path: Path) -> None:
    turned, glass = tmp_path / "turned.jpg", tmp_path / "glass.webp"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    Image.linear_gradient("L").resize((96, 64)).save(turned, exif=exif)
    Image.merge("RGBA", [Image.linear_gradient("L")] * 4).save(glass, lossless=True)
    for path in (turned, glass):
        assert model.module.decode_image(path.read_bytes()).tobytes() == load_image(path).tobytes()
    assert model.module.decode_image(turned.read_bytes()).size == (64, 96)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bundle": "x"}, "config.pbtxt has no parameter backend, residency, cuda_graphs; write it again"),
        ({"cuda_graphs": "yes"}, "the parameter cuda_graphs is 'yes'; use true or false"),
        ({"backend": "best"}, "backend is 'best'; use auto"),
    ],
)
def test_a_configuration_changed_for_the_worse_is_told(model: Any, given: dict[str, str], message: str) -> None:
    usable = model.args["model_config"]["parameters"]
    changed = {name: {"string_value": value} for name, value in given.items()}
    values = changed if "bundle" in given else {**usable, **changed}
    arguments = {**model.args, "model_config": json.dumps({"parameters": values})}
    with pytest.raises(ConfigError, match=re.escape(message)):
        model.module.TritonPythonModel().initialize(arguments)


def test_a_backend_that_cannot_use_this_numpy_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tritonserver 2.51.0 was seen to do with NumPy 2: every element is the first one."""
    monkeypatch.setattr(
        model.utils.Tensor, "from_dlpack", lambda name, _tensor: model.utils.Tensor(name, np.array([1, 1, 1, 1]))
    )
    with pytest.raises(ServingError, match=re.escape('came out as [1, 1, 1, 1]. Install "numpy<2"')):
        model.module.check_numpy()


# The real server.


@pytest.fixture(scope="module")
def home() -> Path:
    """Where tritonserver is set up."""
    reason = why_not(home_folder())
    if reason:
        pytest.skip(reason)
    return home_folder()


@pytest.fixture(scope="module")
def server(home: Path, nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("triton")
    config = TritonConfig(bundle=nano_bundle, output=folder / "repo", bundle_files=BundleFiles.COPY)
    with running_server(home, write_repository(config), folder) as running:
        yield running
        assert running.process.poll() is None, "the server ended by itself"
    assert running.process.returncode == 0, running.log.read_text(errors="replace")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    return path


def ask(server: TritonServer, *arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the example's client to its end."""
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return subprocess.run(
        server.client(*arguments, *options), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def progress_of(stderr: str) -> list[tuple[int, str]]:
    return [
        (int(step), stage) for step, stage in re.findall(r"^step (\d+) of \d+: ([a-z ]+), seed", stderr, re.MULTILINE)
    ]


def counted(server: TritonServer, name: str, label: str) -> float:
    return sum(value for labels, value in server.counters(name).items() if label in labels)


def test_the_same_seed_makes_the_same_bytes_as_generate(
    server: TritonServer, nano_bundle: Bundle, picture: Path, tmp_path: Path
) -> None:
    settings = ClipSettings(
        num_inference_steps=3,
        cut_step=2,
        seed=2**62 + 1,
        fps=5,
        motion_bucket_id=100,
        noise_aug_strength=0.1,
        min_guidance_scale=1.1,
        max_guidance_scale=2.7,
        fit=Fit.STRETCH,
    )
    generate = GenerateConfig(image=picture, output=tmp_path / "generated.mp4", settings=settings)
    choice = choose_backend(nano_bundle, Backend.AUTO, "cpu")
    generate_videos(nano_bundle, generate, choice, EngineOptions())
    given = {field.name: getattr(settings, field.name) for field in fields(settings)}
    given = {name: getattr(value, "value", value) for name, value in given.items() if value not in (None, ())}

    done = ask(server, picture, tmp_path / "served.mp4", **given)

    assert done.returncode == 0, done.stderr
    assert progress_of(done.stderr) == [
        (1, "semantic binding"),
        (2, "quality improvement"),
        (3, "quality improvement"),
    ]
    assert (tmp_path / "served.mp4").read_bytes() == (tmp_path / "generated.mp4").read_bytes()


def test_without_settings_there_are_25_steps_and_a_seed_that_makes_it_again(
    server: TritonServer, nano_bundle: Bundle, picture: Path, tmp_path: Path
) -> None:
    cut_step = nano_bundle.manifest.cut_step
    first = ask(server, picture, tmp_path / "first.mp4")
    stages = ["semantic binding"] * (cut_step - 1) + ["quality improvement"] * (26 - cut_step)
    assert progress_of(first.stderr) == list(enumerate(stages, start=1))
    (seed,) = set(re.findall(r"seed (\d+)", first.stderr))
    ask(server, picture, tmp_path / "again.mp4", seed=seed)
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "first.mp4").read_bytes()


def test_cancelling_stops_the_work_and_the_next_request_is_made(
    server: TritonServer, picture: Path, tmp_path: Path
) -> None:
    cancelled = counted(server, "vcut_videos_total", 'outcome="cancelled"')
    steps = counted(server, "vcut_steps_total", "stage=")
    command = server.client(picture, tmp_path / "never.mp4", "--set", "num_inference_steps=1000")
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as client:
        assert client.stderr is not None
        lines = [client.stderr.readline() for _ in range(3)]
        client.send_signal(signal.SIGINT)
        rest = client.stderr.read()
    assert client.returncode == 130, rest
    assert rest.endswith("cancelled\n")
    assert [step for step, _ in progress_of("".join(lines))] == [1, 2, 3]
    assert not (tmp_path / "never.mp4").exists()
    after = ask(server, picture, tmp_path / "next.mp4", num_inference_steps=2)
    assert after.returncode == 0, after.stderr
    assert counted(server, "vcut_videos_total", 'outcome="cancelled"') == cancelled + 1
    assert counted(server, "vcut_steps_total", "stage=") < steps + 1000


def test_errors_are_the_requests_own(server: TritonServer, picture: Path, tmp_path: Path) -> None:
    failed = counted(server, "vcut_videos_total", 'outcome="failed"')
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:150])
    for arguments, message in (
        ((broken, {}), "IMAGE cannot be read to its end"),
        ((picture, {"num_inference_steps": 4, "cut_step": 6}), "cut_step is 6; with 4 steps it must lie in 1 … 5"),
        ((picture, {"seed": 2**64}), "has more than 64 bits"),
        ((picture, {"fit": "wide"}), "fit is 'wide'; use crop, stretch"),
    ):
        image, settings = arguments
        done = ask(server, image, tmp_path / "none.mp4", **settings)
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr
        assert not (tmp_path / "none.mp4").exists()
    assert counted(server, "vcut_videos_total", 'outcome="failed"') == failed + 3  # the client itself refuses the seed
    assert server.is_up("/v2/models/vcut/ready")
    assert ask(server, picture, tmp_path / "next.mp4", num_inference_steps=1).returncode == 0


def test_metrics_and_the_log_tell_of_the_model(server: TritonServer, picture: Path, tmp_path: Path) -> None:
    before = counted(server, "vcut_videos_total", 'outcome="completed"')
    steps = counted(server, "vcut_steps_total", "stage=")
    assert ask(server, picture, tmp_path / "clip.mp4", num_inference_steps=4, cut_step=3).returncode == 0
    assert counted(server, "vcut_videos_total", 'outcome="completed"') == before + 1
    assert counted(server, "vcut_steps_total", "stage=") == steps + 3  # the first step's time is not a step's
    assert counted(server, "vcut_steps_seconds_total", 'stage="semantic binding"') > 0
    assert counted(server, "vcut_videos_seconds_total", 'model="vcut"') > 0
    assert "running on onnxruntime, cpu" in server.log.read_text()


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_of_a_video_leaves_no_process(
    home: Path, nano_bundle: Bundle, picture: Path, tmp_path: Path
) -> None:
    """Asked to end, tritonserver 2.51.0 does not wait long enough for a video, and crashes or hangs."""
    repository = write_repository(TritonConfig(bundle=nano_bundle, output=tmp_path / "repo"))
    with running_server(home, repository, tmp_path, exit_seconds=1) as running:
        (model,) = psutil.Process(running.process.pid).children()
        command = running.client(picture, tmp_path / "never.mp4", "--set", "num_inference_steps=1000")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
            assert client.stderr is not None
            assert client.stderr.readline().startswith("step 1 of 1000")
            running.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(4)
            running.process.kill()
            client.kill()
    try:
        model.wait(PATIENCE_SECONDS)
    finally:
        with suppress(psutil.NoSuchProcess):
            model.kill()
