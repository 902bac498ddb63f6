"""Whether a TensorRT works here, tried on a network of one layer: built, and run where there is a GPU.

`python -m vcut_trt.engines.tensorrt.probe rtx` prints what was done. It is a process of its own because a library that
does not fit the driver may end the process, and because two TensorRTs need not get along in one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vcut_trt.engines.tensorrt.module import Flavour, load
from vcut_trt.engines.tensorrt.targets import sm_name
from vcut_trt.errors import BuildError, EngineError, VcutError

SIZE = 64
TIMEOUT_SECONDS = 300
WITHOUT_GPU = (8, 6)  # TensorRT for RTX builds for a GPU that is not here


def try_tensorrt(flavour: Flavour) -> str:
    """What `flavour` can do here, tried in a process of its own.

    Raises:
        EngineError: It cannot; the message has its words.
    """
    try:
        done = subprocess.run(command(flavour), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise EngineError(f"a network of one layer took more than {TIMEOUT_SECONDS} s") from None
    last = [line for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()][-1:]
    if done.returncode < 0:
        raise EngineError(f"it ended its process with signal {-done.returncode}: {''.join(last)}")
    if done.returncode:
        raise EngineError("".join(last) or f"it ended its process with {done.returncode}")
    return "".join(last)


def command(flavour: Flavour) -> list[str]:
    """What tries `flavour` in another process."""
    return [sys.executable, "-m", __name__, flavour.value]


def probe(flavour: Flavour) -> str:
    """Build, and where there is a GPU run, `y = relu(x)`."""
    trt = load(flavour)
    said: list[str] = []
    logger = _quiet_logger(trt, said)
    has_gpu = torch.cuda.is_available()
    if flavour is Flavour.CLASSIC and not has_gpu:
        return f"{trt.__version__}: loads; it builds and runs on a GPU only"
    capability = torch.cuda.get_device_capability() if has_gpu else WITHOUT_GPU
    if flavour is Flavour.RTX and not hasattr(trt.ComputeCapability, sm_name(capability).upper()):
        raise BuildError(
            f"{trt.__version__} does not build for this GPU, of compute capability {capability[0]}.{capability[1]}. "
            'Install TensorRT, which does: pip install "vcut-trt[tensorrt]"'
        )
    plan = _build(trt, logger, flavour, capability)
    if plan is None:
        raise BuildError(f"{trt.__version__} does not build: {' '.join(said) or 'it gives no reason'}")
    if not has_gpu:
        return f"{trt.__version__}: built a network of one layer; not run, there is no GPU"
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context() if engine is not None else None
    if context is None or not _runs(context):
        raise EngineError(f"{trt.__version__} builds and does not run: {' '.join(said) or 'it gives no reason'}")
    return f"{trt.__version__}: built a network of one layer and ran it"


def _build(trt: Any, logger: Any, flavour: Flavour, capability: tuple[int, int]) -> Any:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    relu = network.add_activation(network.add_input("x", trt.float32, (SIZE,)), trt.ActivationType.RELU)
    relu.get_output(0).name = "y"
    network.mark_output(relu.get_output(0))
    config = builder.create_builder_config()
    if flavour is Flavour.RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, sm_name(capability).upper()), 0)
    return builder.build_serialized_network(network, config)


def _runs(context: Any) -> bool:
    x = torch.linspace(-1, 1, SIZE, device="cuda")
    y = torch.zeros_like(x)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    context.set_tensor_address("x", x.data_ptr())
    context.set_tensor_address("y", y.data_ptr())
    done = bool(context.execute_async_v3(stream.cuda_stream))
    stream.synchronize()
    return done and torch.equal(y, x.relu())


def _quiet_logger(trt: Any, said: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of whichever module is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                said.append(msg)

    return Logger()


def main() -> None:
    """Print one line: what was done, or, on stderr, why not."""
    parser = argparse.ArgumentParser(description="Try a TensorRT, in a process of its own.")
    parser.add_argument("flavour", choices=[flavour.value for flavour in Flavour])
    flavour = Flavour(parser.parse_args().flavour)
    try:
        print(probe(flavour))
    except VcutError as error:
        sys.exit(str(error))
    except (AttributeError, RuntimeError, TypeError) as error:  # a TensorRT that lacks what others have
        sys.exit(f"{Path(sys.executable).name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
