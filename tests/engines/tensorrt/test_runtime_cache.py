"""The runtime cache's file: where it lies, when it is written, and that it never stands in a video's way."""

from __future__ import annotations

import gc
import logging
import stat
import weakref
from pathlib import Path

import pytest

from tests.engines.tensorrt.standin import host_memory
from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile, cache_folder, cache_path

A10 = Gpu(name="NVIDIA A10", compute_capability=(8, 6), free_bytes=0, driver_major=13)
VERSION = "1.7.1.116"


class FakeCache:
    """An `IRuntimeCache`: bytes that grow when kernels are compiled. One content is rejected, and changes nothing."""

    def __init__(self, rejected: bytes | None = None) -> None:
        self.content = b""
        self.filled = 0
        self._rejected = rejected

    def deserialize(self, content: bytes) -> bool:
        self.filled += 1
        if content == self._rejected:
            return False
        self.content = content
        return True

    def serialize(self) -> object:
        """An `IHostMemory`, which is a buffer and has no length; None if TensorRT fails."""
        return host_memory(self.content) if self.content else None


class FakeConfig:
    """An `IRuntimeConfig`: it makes caches, and knows the address of the one that it is given, as the real one does."""

    def __init__(self, *, rejected: bytes | None = None, takes: bool = True) -> None:
        self.created = 0
        self._cache: weakref.ref[FakeCache] | None = None
        self._rejected = rejected
        self._takes = takes

    def create_runtime_cache(self) -> FakeCache:
        self.created += 1
        return FakeCache(self._rejected)

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        if self._takes:
            self._cache = weakref.ref(cache)
        return self._takes

    @property
    def cache(self) -> FakeCache:
        """What its contexts use."""
        assert self._cache is not None
        cache = self._cache()
        assert cache is not None, "the cache is gone"
        return cache

    def compile(self, kernel: bytes) -> str:
        """What a context does when it is created, and when it first runs."""
        if self._cache is None:
            return "compiled"
        known = kernel in self.cache.content
        if not known:
            self.cache.content += kernel
        return "loaded" if known else "compiled"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return cache_path(tmp_path / "cache", A10, VERSION)


def kernels(file: RuntimeCacheFile, kernel: bytes, config: FakeConfig | None = None) -> str:
    """Where the kernels of a new context came from."""
    config = config or FakeConfig()
    file.attach(config)
    return config.compile(kernel)


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
    first = RuntimeCacheFile(path)
    assert kernels(first, b"kernel") == "compiled"
    first.save()
    assert names(path.parent) == [path.name]
    assert kernels(RuntimeCacheFile(path), b"kernel") == "loaded"
    assert not caplog.records


def test_what_is_compiled_on_top_of_a_loaded_cache_is_kept_too(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"one ")
    file = RuntimeCacheFile(path)
    kernels(file, b"two")
    file.save()
    assert path.read_bytes() == b"one two"


def test_what_one_context_compiled_the_next_one_loads(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"kernel")
    file = RuntimeCacheFile(path)
    assert kernels(file, b" more") == "compiled"
    assert kernels(file, b" more") == "loaded"
    assert kernels(file, b"kernel") == "loaded"  # the file's own are not lost on the way
    file.save()
    assert path.read_bytes() == b"kernel more"


def test_all_configs_share_one_cache_that_is_filled_once_and_outlives_them(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"kernel")
    file = RuntimeCacheFile(path)
    configs = [FakeConfig() for _ in range(3)]
    for config in configs:
        file.attach(config)
    assert [config.created for config in configs] == [1, 0, 0]
    assert len({id(config.cache) for config in configs}) == 1
    assert configs[0].cache.filled == 1
    del config, configs[0]  # which made the cache
    gc.collect()
    assert configs[0].compile(b"kernel") == "loaded"


def test_what_is_compiled_when_a_context_first_runs_is_kept(path: Path) -> None:
    file, config = RuntimeCacheFile(path), FakeConfig()
    file.attach(config)
    config.compile(b"created")
    file.save()
    config.compile(b" run")
    file.save()
    assert path.read_bytes() == b"created run"


def test_closing_lets_the_cache_go(path: Path) -> None:
    file, config = RuntimeCacheFile(path), FakeConfig()
    file.attach(config)
    cache = weakref.ref(config.cache)
    file.close()
    gc.collect()
    assert cache() is None
    file.save()
    assert not path.exists()


@pytest.mark.parametrize("saves", [1, 2])
def test_an_unchanged_cache_is_not_written_again(path: Path, saves: int) -> None:
    path.parent.mkdir()
    path.write_bytes(b"kernel")
    before = path.stat()
    file = RuntimeCacheFile(path)
    assert kernels(file, b"kernel") == "loaded"
    for _ in range(saves):
        file.save()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_saved_cache_is_not_written_again(path: Path) -> None:
    file = RuntimeCacheFile(path)
    kernels(file, b"kernel")
    file.save()
    inode = path.stat().st_ino
    file.save()
    assert path.stat().st_ino == inode
    kernels(file, b" more")
    file.save()
    assert path.read_bytes() == b"kernel more"


def test_a_rejected_cache_is_told_once_and_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = b"kernel of another driver"
    path.parent.mkdir()
    path.write_bytes(old)
    file = RuntimeCacheFile(path)
    assert kernels(file, b"kernel", FakeConfig(rejected=old)) == "compiled"  # as if there were no file
    assert kernels(file, b" more", FakeConfig(rejected=old)) == "compiled"
    assert kernels(file, b"kernel", FakeConfig(rejected=old)) == "loaded"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"rejects the runtime cache {path}" in caplog.text
    assert path.read_bytes() == old
    file.save()
    assert path.read_bytes() == b"kernel more"


@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_rejected_cache_stays_if_nothing_was_compiled(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    file = RuntimeCacheFile(path)
    kernels(file, b"", FakeConfig(rejected=content))
    file.save()
    assert path.read_bytes() == content


def test_a_tensorrt_that_takes_no_cache_is_told_and_compiles(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert kernels(RuntimeCacheFile(path), b"kernel", FakeConfig(takes=False)) == "compiled"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "TensorRT takes no runtime cache" in caplog.text


def test_without_contexts_nothing_is_written(path: Path) -> None:
    RuntimeCacheFile(path).save()
    assert not path.parent.exists()


def test_a_cache_without_kernels_is_not_written(path: Path) -> None:
    file = RuntimeCacheFile(path)
    kernels(file, b"")
    file.save()
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_told_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = cache_path(tmp_path / "file" / "cache", A10, VERSION)
    file = RuntimeCacheFile(path)
    kernels(file, b"kernel")
    caplog.clear()
    file.save()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"cannot be kept in {path}" in caplog.text
    assert kernels(file, b"kernel") == "loaded"


def test_a_full_disk_is_told_and_leaves_the_old_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"old")
    file = RuntimeCacheFile(path)
    kernels(file, b" and new")

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
    file = RuntimeCacheFile(path)
    assert kernels(file, b"kernel") == "compiled"
    assert f"{path} cannot be read" in caplog.text
    assert kernels(file, b"kernel") == "loaded"
    file.save()
    assert f"cannot be kept in {path}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert names(path.parent) == [path.name]


def test_what_is_kept_is_the_users_own(path: Path) -> None:
    file = RuntimeCacheFile(path)
    kernels(file, b"kernel")
    file.save()
    assert (stat.S_IMODE(path.parent.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (0o700, 0o600)


def test_a_cache_that_others_could_write_is_not_theirs_any_more_after_saving(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"kernel")
    path.chmod(0o666)
    file = RuntimeCacheFile(path)
    kernels(file, b" more")
    file.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
