"""The runtime cache's file: where it lies, when it is written, and that it never stands in a video's way."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from vcut_trt.engines.gpu import Gpu
from vcut_trt.engines.runtime_cache import RuntimeCacheFile, cache_folder, cache_path

A10 = Gpu(name="NVIDIA A10", compute_capability=(8, 6), free_bytes=0, driver_major=13)
VERSION = "1.7.1.116"


class FakeCache:
    """An `IRuntimeCache`: bytes that grow when kernels are compiled."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.content = b""
        self._accepts = accepts

    def deserialize(self, content: bytes) -> bool:
        if self._accepts:
            self.content = content
        return self._accepts

    def serialize(self) -> bytearray | None:
        return bytearray(self.content) or None  # TensorRT gives an IHostMemory, or None if it fails

    def compile(self, kernel: bytes) -> None:
        self.content += kernel


class FakeConfig:
    """An `IRuntimeConfig`."""

    def __init__(self, cache: FakeCache, *, takes: bool = True) -> None:
        self.created = 0
        self.attached: list[FakeCache] = []
        self._cache = cache
        self._takes = takes

    def create_runtime_cache(self) -> FakeCache:
        self.created += 1
        return self._cache

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.attached.append(cache)
        return self._takes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return cache_path(tmp_path / "cache", A10, VERSION)


def attached(path: Path, cache: FakeCache) -> RuntimeCacheFile:
    file = RuntimeCacheFile(path)
    file.attach(FakeConfig(cache))
    return file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("gpu", "driver", "expected"),
    [
        ("NVIDIA A10", 13, "nvidia-a10-rtx1.7.1.116-cuda13.cache"),
        ("NVIDIA A10", 12, "nvidia-a10-rtx1.7.1.116-cuda12.cache"),
        ("NVIDIA GeForce RTX 4090", 13, "nvidia-geforce-rtx-4090-rtx1.7.1.116-cuda13.cache"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 13, "nvidia-a100-sxm4-40gb-mig-1g.5gb-rtx1.7.1.116-cuda13.cache"),
        ("../../etc/GPU: ™ ", 13, "..-..-etc-gpu-rtx1.7.1.116-cuda13.cache"),
    ],
)
def test_the_name_has_gpu_version_and_cuda_major_and_stays_in_its_folder(gpu: str, driver: int, expected: str) -> None:
    described = Gpu(name=gpu, compute_capability=(8, 6), free_bytes=1, driver_major=driver)
    path = cache_path(Path("/folder"), described, VERSION)
    assert path == Path("/folder") / expected
    assert path.parent == Path("/folder")


def test_another_version_has_another_file() -> None:
    assert cache_path(Path(), A10, VERSION) != cache_path(Path(), A10, "1.7.1.117")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/home/someone/.cache/vcut_trt"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/vcut_trt"),
        ({"VCUT_TRT_CACHE": "/own"}, "/own"),
        ({"VCUT_TRT_CACHE": "/own", "XDG_CACHE_HOME": "/caches"}, "/own"),
        ({"VCUT_TRT_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/someone/.cache/vcut_trt"),
    ],
)
def test_the_environment_says_where_the_cache_lies(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("VCUT_TRT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_what_one_process_compiled_the_next_one_loads(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = FakeCache()
    file = attached(path, first)
    first.compile(b"kernel")
    file.save()
    assert names(path.parent) == [path.name]
    second = FakeCache()
    attached(path, second)
    assert second.content == b"kernel"
    assert not caplog.records


def test_what_is_compiled_on_top_of_a_loaded_cache_is_kept_too(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"one ")
    cache = FakeCache()
    file = attached(path, cache)
    cache.compile(b"two")
    file.save()
    assert path.read_bytes() == b"one two"


def test_two_contexts_share_one_cache(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"kernel")
    first, second = FakeConfig(FakeCache()), FakeConfig(FakeCache())
    file = RuntimeCacheFile(path)
    file.attach(first)
    first.attached[0].compile(b" more")
    file.attach(second)
    assert (first.created, second.created) == (1, 0)
    assert second.attached[0] is first.attached[0]
    assert second.attached[0].content == b"kernel more"  # not loaded a second time over what was compiled


@pytest.mark.parametrize("saves", [1, 2])
def test_an_unchanged_cache_is_not_written_again(path: Path, saves: int) -> None:
    path.parent.mkdir()
    path.write_bytes(b"kernel")
    before = path.stat()
    file = attached(path, FakeCache())
    for _ in range(saves):
        file.save()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_saved_cache_is_not_written_again(path: Path) -> None:
    cache = FakeCache()
    file = attached(path, cache)
    cache.compile(b"kernel")
    file.save()
    inode = path.stat().st_ino
    file.save()
    assert path.stat().st_ino == inode
    cache.compile(b" more")
    file.save()
    assert path.read_bytes() == b"kernel more"


def test_a_rejected_cache_is_told_and_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"of another driver")
    cache = FakeCache(accepts=False)
    file = attached(path, cache)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"rejects the runtime cache {path}" in caplog.text
    assert path.read_bytes() == b"of another driver"
    cache.compile(b"of this one")
    file.save()
    assert path.read_bytes() == b"of this one"


@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_rejected_cache_stays_if_nothing_was_compiled(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    attached(path, FakeCache(accepts=False)).save()
    assert path.read_bytes() == content


def test_a_tensorrt_that_takes_no_cache_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RuntimeCacheFile(path).attach(FakeConfig(FakeCache(), takes=False))
    assert "TensorRT takes no runtime cache" in caplog.text


def test_without_contexts_nothing_is_written(path: Path) -> None:
    RuntimeCacheFile(path).save()
    assert not path.parent.exists()


def test_a_cache_without_kernels_is_not_written(path: Path) -> None:
    attached(path, FakeCache()).save()
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_told_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = cache_path(tmp_path / "file" / "cache", A10, VERSION)
    cache = FakeCache()
    file = attached(path, cache)
    cache.compile(b"kernel")
    caplog.clear()
    file.save()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"cannot be kept in {path}" in caplog.text


def test_a_full_disk_is_told_and_leaves_the_old_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"old")
    cache = FakeCache()
    file = attached(path, cache)
    cache.compile(b" and new")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        file.save()
    assert "No space left on device" in caplog.text
    assert (names(path.parent), path.read_bytes()) == ([path.name], b"old")
    file.save()  # the failure is not taken for a success
    assert path.read_bytes() == b"old and new"


def test_what_cannot_be_read_is_told_and_costs_nothing_else(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir(parents=True)  # even root cannot read a folder as a file, nor put a file in its place
    cache = FakeCache()
    file = attached(path, cache)
    assert f"{path} cannot be read" in caplog.text
    cache.compile(b"kernel")
    file.save()
    assert f"cannot be kept in {path}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert names(path.parent) == [path.name]


def test_the_folder_that_is_made_is_the_users_own(path: Path) -> None:
    cache = FakeCache()
    file = attached(path, cache)
    cache.compile(b"kernel")
    file.save()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not stat.S_IMODE(path.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IXUSR)
