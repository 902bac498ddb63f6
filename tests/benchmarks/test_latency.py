"""Contenders on the same work: who takes part, in which order, and the arithmetic of what is reported."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import matmul_rate
from benchmarks.latency import __main__ as latency
from benchmarks.latency import availability, diffusers_systems, plot, work
from benchmarks.latency.availability import LeftOut, export_missing, open_bundles, why_not
from benchmarks.latency.ceiling import count_steps, denoising_flops, fraction_of_ceiling
from benchmarks.latency.contenders import REFERENCE, Contender, Kind, System, all_contenders, select
from benchmarks.latency.measure import Run, measure
from benchmarks.latency.memory import MemoryWatch, Peak
from benchmarks.latency.opening import open_system
from benchmarks.latency.quality import compare
from benchmarks.latency.quiet import Pair, Reading
from benchmarks.latency.report import Machine, Report, as_json, build_report
from benchmarks.latency.systems import Clip
from benchmarks.latency.vcut_systems import open_modules
from benchmarks.latency.view import page
from benchmarks.latency.work import Work, make_work
from benchmarks.latency.workers import ContenderError, FirstVideo, LocalWorker, ProcessWorker
from benchmarks.macs import Variant, unet_cost
from benchmarks.matmul_rate import MatmulRate, SizeRate
from benchmarks.subject import Size
from tests.conftest import NANO_VIDEO
from tests.models import NANO
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.svd import FAMILY
from vcut_trt.errors import ConfigError
from vcut_trt.export.exporter import ExportConfig
from vcut_trt.measure.timing import Stopwatch, VideoTimes
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.work.progress import SILENT

STEPS = 3
TIMES = VideoTimes(
    total_s=10.0,
    first_frame_s=9.0,
    image_encoder_s=0.5,
    vae_encoder_s=0.5,
    binding_s=4.0,
    improvement_s=1.0,
    decoder_s=2.0,
)
RATE = MatmulRate(
    device="a test",
    dtype="float32",
    repeats=1,
    best=SizeRate(size=8, tflops=2.0, slowest_tflops=1.0, fastest_tflops=3.0),
    sizes=(),
)
MACHINE = Machine(system="test", processor="test", cores=2, memory_bytes=1 << 34, gpu=None, load_average=0.5)
ORIGINAL, PAPER, EXACT = CrossAttention.ORIGINAL, CrossAttention.PAPER, CrossAttention.EXACT
STEP_FLOPS = {ORIGINAL: (10 * 10**12, 5 * 10**12), PAPER: (8 * 10**12, 4 * 10**12), EXACT: (8 * 10**12, 4 * 10**12)}


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The nano model as work."""
    for known in ("ARCHITECTURES", "OWN"):
        monkeypatch.setattr(work, known, {**getattr(work, known), "nano": NANO})
    return nano_work()


@functools.cache
def nano_steps() -> dict[CrossAttention, tuple[int, int]]:
    return count_steps(NANO)


def nano_work() -> Work:
    return Work(
        model="nano",
        random_weights=True,
        video=NANO_VIDEO,
        precision=Precision.FP32,
        device="cpu",
        steps=STEPS,
        repeats=2,
    )


def clip(value: float, *, latents: float = 1.0) -> Clip:
    frames, after = np.full((2, 4, 4, 3), value, np.float32), np.full((1, 2, 4, 2, 2), latents, np.float32)
    return Clip(frames=frames, latents=after, denoising_flops=None)


def reading(total_s: float, *, rate: float = 2.0) -> Reading:
    return Reading(times=replace(TIMES, total_s=total_s), cpu_s=rate * total_s)


class FakeWorker:
    """Takes down who worked; a stock video takes 12 s, another 8 s, on both cores."""

    log: list[tuple[str, str, int]]
    fails: str = ""

    def __init__(self, system: System, _work: Work, _bundle: Path | None) -> None:
        self.name = system.name
        if self.fails == f"open {self.name}":
            raise ContenderError("it does not open")

    def first(self, schedule: CutSchedule) -> FirstVideo:
        self.log.append(("first", self.name, schedule.cut_step))
        if self.fails == f"first {self.name}":
            raise ContenderError("it does not run")
        return FirstVideo(clip=clip(0.5), peak=Peak(host_bytes=1, device_bytes=None))

    def timed(self, schedule: CutSchedule) -> Reading:
        self.log.append(("timed", self.name, schedule.cut_step))
        if self.fails == f"timed {self.name}":
            raise ContenderError("it does not run again")
        return reading(12.0 if self.name == "stock" else 8.0)

    def close(self) -> None:
        self.log.append(("close", self.name, 0))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(FakeWorker, "log", [], raising=False)
    return FakeWorker


def test_every_contender_has_stock_beside_it_in_alternating_order_and_the_first_is_not_timed(
    nano: Work, fake: type[FakeWorker]
) -> None:
    contenders = select(["vcut-eager/paper/uncut", "vcut-eager/paper/c10"])
    run = measure(contenders, nano, {}, fake)
    stock, uncut, cut = ("stock", 4), ("vcut-eager/paper", 4), ("vcut-eager/paper", 2)  # c = 10 of 25 is 2 of three
    made = [entry for entry in fake.log if entry[0] != "close"]
    alone = [("first", *stock), ("timed", *stock), ("timed", *stock)]
    pairs = [stock, uncut, stock, cut, uncut, stock, cut, stock]
    assert made == [*alone, ("first", *uncut), ("first", *cut), *(("timed", *who) for who in pairs)]
    assert [name for kind, name, _ in fake.log if kind == "close"] == ["vcut-eager/paper", "stock"]
    assert [[pair.ratio for pair in item.pairs] for item in run.measured] == [[1, 1], [1.5, 1.5], [1.5, 1.5]]
    assert not run.left_out


@pytest.mark.parametrize("fails", [f"{when} vcut-eager/paper" for when in ("open", "first", "timed")])
def test_a_contender_that_fails_is_left_out_with_the_reason(
    nano: Work, fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(fake, "fails", fails)
    run = measure(select(["vcut-eager/*/c17"]), nano, {}, fake)
    assert [item.contender.name for item in run.measured] == ["stock", "vcut-eager/exact/c17"]
    (left_out,) = run.left_out
    assert left_out.name == "vcut-eager/paper/c17"
    assert left_out.reason.startswith("it does not")
    assert fake.log.count(("timed", "vcut-eager/paper", 3)) <= 1, "it is not asked again"


@pytest.mark.parametrize("fails", ["open stock", "first stock"])
def test_nothing_is_reported_without_stock(
    nano: Work, fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(fake, "fails", fails)
    with pytest.raises(ContenderError, match="it does not"):
        measure(select(["stock"]), nano, {}, fake)


class Card:
    """A GPU with room for one system: opening a second one is what a small card cannot do."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.log: list[tuple[str, str, int]] = []
        self.cannot_open: dict[str, int] = {}  # from which opening on

    def worker(self, system: System, _work: Work, _bundle: Path | None) -> CardWorker:
        assert not self.open, f"{system.name} is opened beside {self.open}"
        opened = sum(entry[:2] == ("open", system.name) for entry in self.log) + 1
        if opened >= self.cannot_open.get(system.name, opened + 1):
            raise ContenderError("it does not open")
        return CardWorker(self, system.name)


class CardWorker:
    def __init__(self, card: Card, name: str) -> None:
        self._card = card
        self._name = name
        card.open.append(name)
        card.log.append(("open", name, 0))

    def first(self, schedule: CutSchedule) -> FirstVideo:
        assert self._card.open == [self._name]
        self._card.log.append(("first", self._name, schedule.cut_step))
        return FirstVideo(clip=clip(0.5), peak=Peak(host_bytes=1, device_bytes=2))

    def timed(self, schedule: CutSchedule) -> Reading:
        assert self._card.open == [self._name]
        self._card.log.append(("timed", self._name, schedule.cut_step))
        return reading(10.0)

    def close(self) -> None:
        self._card.open.remove(self._name)


@pytest.fixture
def on_gpu(nano: Work, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(Work, "place", torch.device("cuda"))
    return nano


def test_on_a_gpu_one_system_is_open_at_a_time_and_warms_up_in_every_round(on_gpu: Work) -> None:
    card = Card()
    run = measure(select(["vcut-eager/paper/uncut", "vcut-eager/paper/c10"]), on_gpu, {}, card.worker)
    ours, stock = "vcut-eager/paper", "stock"
    opened = [(stock, 4), (ours, 4), (ours, 2)]
    first = [("open", stock, 0), ("first", stock, 4), ("open", ours, 0), ("first", ours, 4), ("first", ours, 2)]
    again = [
        *(("open", stock, 0), ("first", stock, 4), ("timed", stock, 4)),
        *(("open", ours, 0), ("first", ours, 4), ("timed", ours, 4), ("first", ours, 2), ("timed", ours, 2)),
    ]
    assert card.log == [*first, *again, *again]
    assert [len(item.pairs) for item in run.measured] == [on_gpu.repeats] * len(opened)
    assert not card.open


def test_on_a_gpu_a_single_system_stays_open(on_gpu: Work) -> None:
    card = Card()
    measure((REFERENCE,), on_gpu, {}, card.worker)
    assert [kind for kind, *_ in card.log] == ["open", "first", "timed", "timed"]


def test_a_system_that_cannot_be_opened_again_is_left_out_and_not_tried_again(on_gpu: Work) -> None:
    card = Card()
    card.cannot_open = {"vcut-eager/paper": 2}
    run = measure(select(["vcut-eager/*/c17"]), on_gpu, {}, card.worker)
    assert [item.contender.name for item in run.measured] == ["stock", "vcut-eager/exact/c17"]
    assert [item.name for item in run.left_out] == ["vcut-eager/paper/c17"]
    assert sum(entry[:2] == ("open", "vcut-eager/paper") for entry in card.log) == 1


def test_contenders_are_chosen_by_name_pattern_and_group() -> None:
    def names(*wanted: str) -> list[str]:
        return [contender.name for contender in select(wanted)]

    assert names("deepcache") == ["stock", "deepcache"]
    assert names("tgate") == ["stock", "tgate/c20", "tgate/c17", "tgate/c10"]
    assert names("vcut-onnxruntime/exact") == [
        "stock",
        *(f"vcut-onnxruntime/exact/{cut}" for cut in ("uncut", "c20", "c17", "c10")),
    ]
    assert names("all") == [contender.name for contender in all_contenders()]
    assert len(set(names("all"))) == len(names("all")) == 2 + 1 + 3 + 6 * 2 * 4
    assert {Kind(name.split("/")[0]) for name in names("default")} == set(Kind), "nobody is dropped silently"
    with pytest.raises(ConfigError, match="no contender is called 'vcut-abacus'"):
        select(["vcut-abacus"])


def test_a_cut_step_is_of_25_and_scaled() -> None:
    cut = Contender(system=System(kind=Kind.EAGER, cross_attention=PAPER), reference_cut_step=17)
    assert [cut.schedule(steps).cut_step for steps in (25, 50)] == [17, 33]
    assert REFERENCE.schedule(25).cut_step == 26


def test_who_cannot_run_is_told_why(nano: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(kind: Kind, fold: CrossAttention = ORIGINAL) -> str:
        return why_not(System(kind=kind, cross_attention=fold), nano, {}) or ""

    monkeypatch.setattr(availability, "find_spec", lambda _name: None)
    assert reason(Kind.DEEPCACHE).endswith("python -m pip install DeepCache==0.1.1")
    assert reason(Kind.TGATE).endswith("python -m pip install tgate==1.0.0")
    assert "CUDA GPU" in reason(Kind.CAPTURED, PAPER)
    assert "--export" in reason(Kind.ONNXRUNTIME, EXACT)
    assert reason(Kind.STOCK) == reason(Kind.COMPILED, PAPER) == ""


def test_a_bundle_opens_the_way_for_its_fold_alone(nano: Work, nano_bundle: Bundle) -> None:
    bundles = open_bundles([nano_bundle.root], replace(nano, model="nano"))
    assert why_not(System(kind=Kind.ONNXRUNTIME, cross_attention=EXACT), nano, bundles) is None
    assert "no bundle" in (why_not(System(kind=Kind.ONNXRUNTIME, cross_attention=PAPER), nano, bundles) or "")
    assert "TensorRT" in (why_not(System(kind=Kind.TENSORRT, cross_attention=EXACT), nano, bundles) or "")
    with pytest.raises(ConfigError, match="name one"):
        open_bundles([nano_bundle.root] * 2, nano)
    with pytest.raises(ConfigError, match="does other work"):
        open_bundles([nano_bundle.root], replace(nano, precision=Precision.BF16))


def test_missing_bundles_are_exported(
    nano: Work, nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ExportConfig]] = []
    paper_bundle = Bundle(nano_bundle.root, nano_bundle.manifest.model_copy(update={"cross_attention": PAPER}))

    def export(checkpoint: Checkpoint, config: ExportConfig, _progress: object) -> Bundle:
        asked.append((checkpoint.fingerprint(), config))
        return paper_bundle

    monkeypatch.setattr(availability, "export_bundle", export)
    chosen = select(["vcut-onnxruntime/*/c17", "vcut-tensorrt/paper/c17"])
    bundles = export_missing(chosen, {EXACT: nano_bundle}, nano, tmp_path, SILENT)
    assert bundles == {EXACT: nano_bundle, PAPER: paper_bundle}
    wanted = ExportConfig(video=NANO_VIDEO, precision=Precision.FP32, output=tmp_path / "paper", cross_attention=PAPER)
    assert asked == [(nano.checkpoint().fingerprint(), wanted)]
    nano.check_bundle(bundles[PAPER].manifest)


def test_modules_decode_a_shorter_last_chunk_too(nano: Work) -> None:
    shorter = replace(nano, video=replace(NANO_VIDEO, decode_chunk=4), steps=2)
    system = open_modules(System(kind=Kind.EAGER, cross_attention=EXACT), shorter, Stopwatch(torch.device("cpu")))
    assert len(system.video(CutSchedule(num_inference_steps=2, cut_step=1))) == NANO_VIDEO.frames
    system.close()


@pytest.mark.parametrize("kind", [Kind.EAGER, Kind.ONNXRUNTIME])
def test_uncut_and_exact_is_the_stock_video(nano: Work, nano_bundle: Bundle, kind: Kind) -> None:
    ours = Contender(system=System(kind=kind, cross_attention=EXACT), reference_cut_step=26)
    run = measure((REFERENCE, ours), nano, {EXACT: nano_bundle}, LocalWorker)
    stock, uncut = run.measured
    assert (stock.quality.psnr_db, stock.quality.latent_error) == (None, 0)
    assert uncut.quality.psnr_db is None or uncut.quality.psnr_db > 80
    assert uncut.quality.latent_error < 1e-4
    for item in run.measured:
        assert item.peak.host_bytes > 1 << 20
        for times in (pair.own.times for pair in item.pairs):
            assert 0 < times.rest_s < times.total_s
            assert times.binding_s > 0 == times.improvement_s
            assert times.first_frame_s < times.total_s


def test_cutting_changes_the_video_and_shows_in_its_stages(nano: Work) -> None:
    ours = Contender(system=System(kind=Kind.EAGER, cross_attention=EXACT), reference_cut_step=10)
    run = measure((REFERENCE, ours), nano, {}, LocalWorker)
    assert run.measured[1].quality.latent_error > 1e-4
    assert run.measured[1].pairs[0].own.times.improvement_s > 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "package"), [(Kind.DEEPCACHE, "DeepCache"), (Kind.TGATE, "tgate")])
def test_the_peers_run_and_are_counted(nano: Work, kind: Kind, package: str) -> None:
    pytest.importorskip(package)
    peer = Contender(
        system=System(kind=kind, cross_attention=ORIGINAL), reference_cut_step=17 if kind is Kind.TGATE else None
    )
    run = measure((REFERENCE, peer), nano, {}, LocalWorker)
    counted, stock = run.measured[1].counted_flops, denoising_flops(nano_steps(), ORIGINAL, peer.schedule(STEPS))
    assert counted is not None
    if kind is Kind.DEEPCACHE:
        assert counted < 0.8 * STEPS * nano_steps()[ORIGINAL][0]  # two of three steps run the outermost block
    else:
        assert 0.8 * stock < counted < stock  # what it keeps of the attention after the gate
        assert run.measured[1].pairs[0].own.times.improvement_s > 0  # its pass without guidance


def test_counting_on_real_tensors_agrees_with_counting_on_meta_tensors(nano: Work) -> None:
    system = diffusers_systems.DiffusersSystem(
        nano, diffusers_systems.as_it_is, open_system(REFERENCE.system, nano, None).stopwatch
    )
    with diffusers_systems.flop_counter() as counter:
        system.video(REFERENCE.schedule(STEPS))
    counted = sum(counter.get_flop_counts()["UNetSpatioTemporalConditionModel"].values())
    assert counted == denoising_flops(nano_steps(), ORIGINAL, REFERENCE.schedule(STEPS))


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_video() -> None:
    tiny = make_work(
        "tiny",
        Size(frames=2, height=64, width=64),
        random_weights=False,
        precision=None,
        device="cpu",
        steps=2,
        repeats=1,
    )
    here, there = (worker(REFERENCE.system, tiny, None) for worker in (LocalWorker, ProcessWorker))
    try:
        schedule = REFERENCE.schedule(2)
        assert compare(there.first(schedule).clip, here.first(schedule).clip).latent_error < 1e-5
        timed = there.timed(schedule)
        times = timed.times
        assert timed.cpu_s > 0
        assert 0 < times.denoising_s < times.total_s
    finally:
        there.close()


@pytest.mark.slow
def test_an_error_in_a_process_comes_back_as_ours(nano: Work) -> None:
    with pytest.raises(ContenderError, match="random weights can be made for"):  # known in this process only
        ProcessWorker(REFERENCE.system, nano, None)


def test_work_and_fraction_by_hand() -> None:
    """Three guided steps of 8 and two single ones of 4 TFLOP: 32; 4 s at 2 TFLOP/s hold 8, a quarter would be 128."""
    schedule = CutSchedule(num_inference_steps=5, cut_step=4)
    assert denoising_flops(STEP_FLOPS, PAPER, schedule) == 32 * 10**12
    assert fraction_of_ceiling(32 * 10**12, seconds=64.0, tflops=2.0) == 0.25


def test_a_step_is_counted_as_the_tables_count_it() -> None:
    steps = nano_steps()
    assert steps[ORIGINAL][0] == 2 * unet_cost(NANO, Variant.STOCK).step.macs
    assert steps[PAPER] == (2 * steps[PAPER][1], steps[PAPER][1])
    assert steps[PAPER][0] < steps[ORIGINAL][0]


def test_quality_by_hand() -> None:
    quality = compare(clip(0.6, latents=1.1), clip(0.5))
    assert quality.psnr_db == pytest.approx(-10 * math.log10(0.01), rel=1e-5)
    assert quality.latent_error == pytest.approx(0.1, rel=1e-5)


def test_memory_is_watched() -> None:
    with MemoryWatch(torch.device("cpu"), None) as watch:
        block = torch.ones(64 << 20, dtype=torch.uint8)
    with MemoryWatch(torch.device("cpu"), None) as idle:
        pass
    assert watch.peak.host_bytes >= len(block)
    assert (watch.peak.device_bytes, idle.peak.device_bytes) == (None, None)


def test_defaults_are_the_models_own() -> None:
    arguments: dict[str, Any] = {"random_weights": False, "precision": None, "device": "cpu", "steps": 25, "repeats": 3}
    own = make_work("medium", Size(), **arguments)
    assert (own.video.frames, own.precision, own.random_weights) == (14, Precision.FP32, True)
    assert own.checkpoint().random_weights
    smaller = make_work("svd-xt", Size(frames=4, height=64), **{**arguments, "random_weights": True})
    assert (smaller.video.frames, smaller.video.height, smaller.video.width) == (4, 64, 1024)
    counted = smaller.architecture()
    assert (counted.unet["num_frames"], counted.height) == (4, 64)
    assert counted.unet["block_out_channels"] == FAMILY["svd-xt"].unet["block_out_channels"]
    for change in ({"steps": 1}, {"repeats": 0}):
        with pytest.raises(ConfigError, match="at least|at least 1"):
            make_work("tiny", Size(), **{**arguments, **change})


def test_a_folders_architecture_is_read(tmp_path: Path) -> None:
    for part in ("unet", "vae", "image_encoder"):
        (tmp_path / part).mkdir()
        config = {"_class_name": "x", **getattr(NANO, part)}
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    found = replace(nano_work(), model=str(tmp_path)).architecture()
    assert unet_cost(found, Variant.STOCK) == unet_cost(NANO, Variant.STOCK)


@pytest.fixture
def report(fake: type[FakeWorker]) -> Report:
    chosen = select(["vcut-eager/paper", "deepcache", "vcut-eager/exact/c17"])
    run = measure(chosen, nano_work(), {}, fake)
    run.left_out.append(LeftOut(name="vcut-tensorrt/paper/c17", reason="no GPU"))
    return build_report(run, nano_work(), MACHINE, RATE, STEP_FLOPS)


def pairs_of(*seconds: tuple[float, float], rate: float = 2.0) -> tuple[Pair, ...]:
    return tuple(Pair(stock=reading(stock_s), own=reading(own_s, rate=rate)) for stock_s, own_s in seconds)


@pytest.fixture
def run_of_two(fake: type[FakeWorker]) -> Run:
    return measure(select(["vcut-eager/paper/c17"]), nano_work(), {}, fake)


def told(run: Run, pairs: tuple[Pair, ...], machine: Machine = MACHINE) -> Report:
    stock, ours = run.measured
    changed = Run(measured=(stock, replace(ours, pairs=pairs)))
    return build_report(changed, nano_work(), machine, RATE, STEP_FLOPS)


def test_quiet_timings_give_the_ratio_of_the_pairs(run_of_two: Run) -> None:
    """A host that slows down between the pairs changes no ratio: 2, 2.1 and 2.2, though the seconds doubled."""
    report = told(run_of_two, pairs_of((10.0, 5.0), (11.0, 5.0), (21.0, 10.0)))
    row = report.rows[1]
    assert report.disturbances == ()
    assert row.speedup == pytest.approx(2.1)
    assert (row.ratios.smallest, row.ratios.largest, row.cpu_s) == (2.0, 2.2, 10.0)
    text = page(report).as_markdown()
    assert "| 2.10× | 2.00 … 2.20 |" in text
    assert "2.10× stock eager" in text
    assert "QUIET" not in text


BUSY = {
    "load": (pairs_of((10.0, 5.0), (10.0, 5.0)), replace(MACHINE, load_average=2.5), "load average 2.50"),
    "spread": (pairs_of((10.0, 5.0), (99.0, 5.0), (10.0, 5.0)), MACHINE, "spread over 2.00 … 19.80"),
    "own CPU": (pairs_of((10.0, 5.0)) + pairs_of((10.0, 5.0), rate=1.2), MACHINE, "1.20 … 2.00 CPU-seconds"),
    "stock's CPU": (
        (*pairs_of((10.0, 5.0)), Pair(stock=reading(10.0, rate=1.1), own=reading(5.0))),
        MACHINE,
        "stock beside vcut-eager/paper/c17: 1.10 … 2.00",
    ),
}


@pytest.mark.parametrize(("pairs", "machine", "says"), BUSY.values(), ids=BUSY.keys())
def test_a_busy_host_gives_no_speed_up_and_says_so_on_top(
    run_of_two: Run, tmp_path: Path, pairs: tuple[Pair, ...], machine: Machine, says: str
) -> None:
    report = told(run_of_two, pairs, machine)
    assert [row.speedup for row in report.rows] == [None, None]
    assert says in " ".join(as_json(report)["disturbances"])
    text = page(report).as_markdown()
    assert text.startswith("**THE HOST WAS NOT QUIET, no speed-up is given.")
    assert says in text
    assert "×" not in text.replace("128×", "").split("seconds: the median")[0].split("\n", 1)[1].split("NOT QUIET")[0]
    assert "stock eager" not in text
    pytest.importorskip("matplotlib")
    plot.draw(report, tmp_path / "busy.png")


def test_stock_that_fails_beside_a_contender_ends_the_run(
    nano: Work, fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "fails", "timed stock")
    with pytest.raises(ContenderError, match="it does not run again"):
        measure(select(["vcut-eager/paper/c17"]), nano, {}, fake)


def test_rows_by_hand(report: Report) -> None:
    stock, cut = (next(row for row in report.rows if row.name == name) for name in ("stock", "vcut-eager/paper/c17"))
    assert (stock.speedup, stock.cut_step) == (1, None)
    assert cut.speedup == pytest.approx(stock.timing.latency_s / cut.timing.latency_s)
    assert cut.videos_per_hour == pytest.approx(3600 / cut.timing.latency_s)
    assert cut.timing.latency_s == sum(cut.totals_s) / 2
    assert (cut.cut_step, cut.denoising_tflop) == (3, 8 + 8 + 4)
    assert cut.fraction_of_ceiling == pytest.approx(20 / 2.0 / (4.0 + 1.0))


def test_json_has_what_the_tables_have(report: Report) -> None:
    answer = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert answer["benchmark"] == "latency"
    assert answer["random_weights"] is True
    assert answer["work"]["video"] == asdict(NANO_VIDEO)
    assert {"python", "torch", "diffusers"} <= answer["versions"].keys()
    assert [row["name"] for row in answer["contenders"]] == [row.name for row in report.rows]
    stages = VideoTimes.__dataclass_fields__.keys()
    assert all(row["timing"]["typical"].keys() == stages for row in answer["contenders"])
    assert answer["left_out"] == [{"name": "vcut-tensorrt/paper/c17", "reason": "no GPU"}]


def test_markdown_says_who_was_left_out_and_what_random_weights_cannot_say(report: Report) -> None:
    text = page(report).as_markdown()
    assert "| vcut-tensorrt/paper/c17 | no GPU |" in text
    assert "RANDOM WEIGHTS" in text
    assert "load average before the run 0.50" in text
    real = replace(report, work=replace(report.work, random_weights=False))
    assert "RANDOM WEIGHTS" not in page(real).as_markdown()


@pytest.mark.parametrize("several_cuts", [True, False])
def test_the_picture_is_drawn(report: Report, tmp_path: Path, several_cuts: bool) -> None:
    pytest.importorskip("matplotlib")
    shown = report if several_cuts else replace(report, rows=report.rows[:2])
    plot.draw(shown, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_ends_with_one_line_of_json(
    fake: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.latency.workers.ProcessWorker", fake)
    monkeypatch.setattr(matmul_rate, "measure_matmul_tflops", lambda _device, _dtype: RATE)
    monkeypatch.setattr("benchmarks.latency.ceiling.count_steps", lambda _architecture: STEP_FLOPS)
    app = typer.Typer()
    app.command()(latency.main)
    arguments = ["--model", "tiny", "--steps", "4", "--device", "cpu", "--contenders", "vcut-captured/paper/c17"]
    shown = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
    assert shown.exit_code == 0, shown.stderr
    assert "Left out" in shown.stdout
    answer = json.loads(shown.stdout.splitlines()[-1])
    assert answer["left_out"][0]["name"] == "vcut-captured/paper/c17"
    assert json.loads((tmp_path / "latency-tiny.json").read_text()) == answer
    assert (
        (tmp_path / "latency-tiny.md")
        .read_text()
        .split("\n")[0]
        .endswith("tiny: 8 frames of 192×128, 4 steps, fp32, cpu, 3 rounds**")
    )
    quiet = CliRunner().invoke(app, [*arguments, "--json"])
    (line,) = quiet.stdout.splitlines()
    assert json.loads(line)["benchmark"] == "latency"


def test_an_unknown_contender_is_wrong_usage() -> None:
    app = typer.Typer()
    app.command()(latency.main)
    result = CliRunner().invoke(app, ["--contenders", "abacus"])
    assert result.exit_code == 2
    assert "vcut-onnxruntime/paper/c17" in result.stderr
