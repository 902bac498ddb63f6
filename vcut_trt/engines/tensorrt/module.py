"""Find a TensorRT to build with: classic (`tensorrt`), or TensorRT for RTX.

TensorRT for RTX comes as NVIDIA's own `tensorrt_rtx`, or as the two packages of the extra `rtx`: the Python bindings
`tensorrt_rtx_bindings` without their library, and a wheel for ONNX Runtime that carries it and its ONNX parser.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import ModuleType

from vcut_trt.engines.driver import why_torch_sees_no_gpu
from vcut_trt.engines.tensorrt.targets import Target, TargetKind, has_cuda_gpu
from vcut_trt.errors import BuildError

logger = logging.getLogger(__name__)


RTX_MODULE, CLASSIC_MODULE = "tensorrt_rtx", "tensorrt"
RTX_BINDINGS = "tensorrt_rtx_bindings"
RTX_LIBRARY_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
RTX_LIBRARIES = ("libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so.")
RTX_CU12_PACKAGE = "tensorrt-rtx-cu12-bindings"
OWN_PACKAGE = "vcut-trt"
INSTALL_HELP = (
    'install TensorRT for RTX with `pip install "vcut-trt[rtx]"`, or TensorRT with `pip install "vcut-trt[tensorrt]"`'
)


class Flavour(str, Enum):
    """The two TensorRTs. Their plans are not interchangeable."""

    CLASSIC = "classic"
    RTX = "rtx"


class FlavourChoice(str, Enum):
    """`--tensorrt`."""

    AUTO = "auto"
    CLASSIC = "classic"
    RTX = "rtx"


def installed(flavour: Flavour) -> bool:
    """Whether `flavour` can be imported."""
    if flavour is Flavour.CLASSIC:
        return _found(CLASSIC_MODULE)
    return _found(RTX_MODULE) or (_found(RTX_BINDINGS) and _found(RTX_LIBRARY_PACKAGE))


def choose_flavour(choice: FlavourChoice, targets: tuple[Target, ...]) -> Flavour:
    """The TensorRT that builds for `targets`: with `auto`, classic for `native` where it is installed, else RTX.

    Raises:
        BuildError: It is not installed, or it cannot build for these targets on this machine.
    """
    native = all(target.kind is TargetKind.NATIVE for target in targets)
    if native and not has_cuda_gpu():
        reason = why_torch_sees_no_gpu()
        none = f"this one cannot be used: {reason}" if reason else "there is none."
        flavour = " --tensorrt rtx" if choice is FlavourChoice.CLASSIC else ""  # classic knows no GPU but this one
        raise BuildError(
            f"--target native builds for the GPU of this machine, and {none} Name one: --target a10{flavour}"
        )
    if choice is FlavourChoice.AUTO:
        flavour = Flavour.CLASSIC if native and installed(Flavour.CLASSIC) else Flavour.RTX
    else:
        flavour = Flavour(choice.value)
    if flavour is Flavour.CLASSIC and not native:
        here = ", or, for this machine's, --target native" if has_cuda_gpu() else ""
        raise BuildError(
            f"classic TensorRT builds for the GPU of the machine alone; for a named one, use --tensorrt rtx{here}"
        )
    if not installed(flavour):
        raise BuildError(f"TensorRT ({flavour.value}) is not installed: {INSTALL_HELP}")
    return flavour


def load(flavour: Flavour) -> ModuleType:
    """Import `flavour` and make Polygraphy use it. One flavour a process: Polygraphy decides at its first import.

    Raises:
        BuildError: It cannot be imported, or this process uses the other one already.
    """
    import polygraphy.config

    loaded = "polygraphy.backend.trt" in sys.modules
    wants_rtx = flavour is Flavour.RTX
    if loaded and bool(polygraphy.config.USE_TENSORRT_RTX) != wants_rtx:
        raise BuildError(
            f"this process has used the other TensorRT already; build the {flavour.value} plans in a new one"
        )
    polygraphy.config.USE_TENSORRT_RTX = wants_rtx
    try:
        return _load_rtx() if wants_rtx else importlib.import_module(CLASSIC_MODULE)
    except (ImportError, OSError) as error:
        raise BuildError(f"TensorRT ({flavour.value}) cannot be loaded: {error}. {reinstall_help(flavour)}") from error


def reinstall_help(flavour: Flavour) -> str:
    """How to install a TensorRT again: its packages by name, because no index need have vcut-trt itself."""
    extra = "tensorrt"
    if flavour is Flavour.RTX:
        extra = "rtx-cu12" if _has_package(RTX_CU12_PACKAGE) else "rtx"
    packages = [
        requirement.partition(";")[0].strip()
        for requirement in (metadata.requires(OWN_PACKAGE) if _has_package(OWN_PACKAGE) else None) or ()
        if requirement.endswith(f'extra == "{extra}"')
    ]
    words = " ".join(f'"{package}"' for package in packages) or f'".[{extra}]"'
    return f"Install it again: python -m pip install --force-reinstall {words}"


def _has_package(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _load_rtx() -> ModuleType:
    if RTX_MODULE in sys.modules or _found(RTX_MODULE):
        return importlib.import_module(RTX_MODULE)
    for library in _rtx_libraries():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # satisfies the bindings' sonames
    module = importlib.import_module(RTX_BINDINGS)
    sys.modules[RTX_MODULE] = module  # the name under which Polygraphy imports it
    return module


def _rtx_libraries() -> list[Path]:
    """The libraries inside the ONNX Runtime wheel. The package is located, not imported: it would register a plugin."""
    spec = importlib.util.find_spec(RTX_LIBRARY_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(f"{RTX_LIBRARY_PACKAGE} is not installed")
    folder = Path(spec.origin).parent
    libraries = []
    for stem in RTX_LIBRARIES:
        candidates = sorted(path for path in folder.glob(f"{stem}*") if not path.is_symlink())
        if not candidates:
            raise ImportError(f"{folder} has no {stem}*")
        libraries.append(candidates[-1])
    return libraries


def _found(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def installed_version(flavour: Flavour | None) -> Installed:
    """The exact version of a TensorRT, if it can be loaded here."""
    if flavour is None or not installed(flavour):
        return {}
    try:
        return {flavour: str(load(flavour).__version__)}
    except BuildError as error:
        logger.warning("%s", error)
        return {}


Installed = Mapping[Flavour, str]
"""The exact version of each TensorRT that can be loaded here."""
