"""Which engines are open when, told from stand-ins that note what is done to them."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Mapping

import pytest
import torch

from vcut_trt.engines.base import Engine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import DECODER, ENCODERS, GraphName
from vcut_trt.spec.residency import LAYOUTS, UNETS, Layout, Residency

RESIDENT, TWO_GROUPS, THREE_GROUPS = LAYOUTS
SIZES = {"image_encoder": 2, "vae_encoder": 1, "unet_cfg": 4, "unet_single": 3, "vae_decoder": 5}
FITS_ALL, FITS_TWO_GROUPS, FITS_THREE_GROUPS, FITS_NOTHING = 15, 12, 7, 6

OPEN_ENCODERS = ["open image_encoder", "open vae_encoder"]
OPEN_UNETS = ["open unet_cfg", "open unet_single"]
OPEN_DECODER = ["open vae_decoder"]


class FakeEngine:
    """Notes that it was closed."""

    def __init__(self, name: str, opener: FakeOpener) -> None:
        self.name = name
        self._opener = opener

    def close(self) -> None:
        assert self.name in self._opener.now_open, f"{self.name} is closed twice"
        self._opener.now_open.remove(self.name)
        self._opener.events.append(f"close {self.name}")
        if self.name in self._opener.stuck:
            raise EngineError(f"{self.name} does not close")


class FakeOpener:
    """Opens stand-ins on a device with room for `room`; never lets more be open than one group of the layout."""

    cuda_graphs = False
    has_compiled = False

    def __init__(self, layout: Layout, room: int = FITS_ALL, broken: str = "") -> None:
        self.workspace = Workspace(torch.device("cpu"))
        self.layout = layout
        self.events: list[str] = []
        self.now_open: list[str] = []
        self.closed = False
        self.broken = broken
        self.room = room
        self.stuck: tuple[str, ...] = ()
        self.kept = 0

    def open(self, name: GraphName) -> Engine:
        together = [*self.now_open, name.value]
        assert any(set(together) <= {member.value for member in group} for group in self.layout.groups), together
        assert len(set(together)) == len(together), together
        assert not self.closed
        if name.value == self.broken:
            raise EngineError(f"{name.value} is broken")
        if sum(SIZES[each] for each in together) > self.room:
            raise DeviceMemoryError(f"no room for {name.value}.")
        self.now_open.append(name.value)
        self.events.append(f"open {name.value}")
        return FakeEngine(name.value, self)  # type: ignore[return-value]

    def use(self, layout: Layout) -> None:
        assert not self.now_open
        self.layout = layout
        self.events.append(f"use {len(layout.groups)} groups")

    def keep_compiled(self) -> None:
        assert not self.closed
        self.kept += 1

    def close(self) -> None:
        assert not self.now_open
        assert not self.closed
        self.closed = True
        self.events.append("close opener")

    def taken(self) -> list[str]:
        """What happened since this was last asked."""
        events, self.events = self.events, []
        return events


class NotedWorkspace(Workspace):
    """Notes among an opener's events when it is waited for and when its memory is given back."""

    def __init__(self, opener: FakeOpener) -> None:
        super().__init__(torch.device("cpu"))
        self._opener = opener

    def synchronize(self) -> None:
        self._opener.events.append("synchronize")

    def release_cache(self) -> None:
        self._opener.events.append("release cache")


def names(engines: Mapping[GraphName, Engine]) -> tuple[GraphName, ...]:
    return tuple(engines)


def run_video(engines: EngineSet) -> None:
    for stage in (ENCODERS, UNETS, DECODER):
        assert engines.stage(stage, names) == stage


def closing(opened: list[str]) -> set[str]:
    return {event.replace("open", "close") for event in opened}


def test_resident_opens_all_at_construction_and_nothing_later() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    assert opener.taken() == OPEN_ENCODERS + OPEN_UNETS + OPEN_DECODER
    for _ in range(2):
        run_video(engines)
    assert opener.taken() == []
    assert engines.layout == RESIDENT
    assert engines.workspace is opener.workspace


@pytest.mark.parametrize(
    ("layout", "groups"),
    [
        (TWO_GROUPS, [OPEN_ENCODERS, OPEN_UNETS + OPEN_DECODER]),
        (THREE_GROUPS, [OPEN_ENCODERS, OPEN_UNETS, OPEN_DECODER]),
    ],
)
def test_staged_opens_a_group_when_its_turn_comes_and_closes_the_one_before_first(
    layout: Layout, groups: list[list[str]]
) -> None:
    opener = FakeOpener(layout)
    engines = EngineSet(opener, Residency.STAGED)
    assert opener.taken() == []
    before: list[str] = []
    for _ in range(2):  # videos
        run_video(engines)
        events = opener.taken()
        for group in groups:
            closed, events = events[: len(before)], events[len(before) :]
            assert set(closed) == closing(before)
            opened, events = events[: len(group)], events[len(group) :]
            assert opened == group
            before = group
        assert events == []


def test_make_is_given_the_open_engines_of_its_stage() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)

    def check(given: Mapping[GraphName, Engine]) -> str:
        assert [(name.value, engine.name) for name, engine in given.items()] == [  # type: ignore[attr-defined]
            ("unet_cfg", "unet_cfg"),
            ("unet_single", "unet_single"),
        ]
        return "made"

    assert engines.stage(UNETS, check) == "made"


def test_what_was_made_is_kept_while_its_engines_are_open_and_made_anew_after() -> None:
    made: list[object] = []

    def make(_engines: Mapping[GraphName, Engine]) -> object:
        made.append(object())
        return made[-1]

    engines = EngineSet(FakeOpener(TWO_GROUPS), Residency.STAGED)
    first = engines.stage(UNETS, make)
    assert engines.stage(UNETS, make) is first
    decoder = engines.stage(DECODER, make)  # the same group: the UNets stay
    assert decoder is not first
    assert engines.stage(UNETS, make) is first
    engines.stage(ENCODERS, make)
    again = engines.stage(UNETS, make)
    assert again is not first
    assert engines.stage(DECODER, make) is not decoder
    assert len(made) == 5


def test_what_was_made_is_let_go_before_its_engines_are_closed() -> None:
    class Bound:
        pass

    engines = EngineSet(FakeOpener(THREE_GROUPS), Residency.STAGED)
    bound = weakref.ref(engines.stage(UNETS, lambda _engines: Bound()))
    gc.collect()
    assert bound() is not None

    def check(_engines: Mapping[GraphName, Engine]) -> None:
        gc.collect()
        assert bound() is None

    engines.stage(DECODER, check)


@pytest.mark.parametrize(
    ("end", "then"),
    [
        pytest.param(lambda engines: engines.stage(ENCODERS, names), OPEN_ENCODERS, id="another stage"),
        pytest.param(lambda engines: engines.stage(DECODER, runs_out(1)), ["use 3 groups"], id="a leaner layout"),
        pytest.param(EngineSet.close, ["close opener"], id="closing"),
    ],
)
def test_what_was_made_outlives_the_work_that_was_enqueued_and_the_freed_memory_is_given_back(
    end: Callable[[EngineSet], object], then: list[str]
) -> None:
    class Bound:
        pass

    opener = FakeOpener(TWO_GROUPS)
    opener.workspace = NotedWorkspace(opener)
    engines = EngineSet(opener, Residency.STAGED)

    def make(_engines: Mapping[GraphName, Engine]) -> Bound:
        bound = Bound()
        weakref.finalize(bound, opener.events.append, "let go")
        return bound

    engines.stage(UNETS, make)
    opener.events.clear()
    end(engines)
    assert opener.events[:2] == ["synchronize", "let go"]
    assert set(opener.events[2:5]) == closing(OPEN_UNETS + OPEN_DECODER)
    assert opener.events[5:][: 1 + len(then)] == ["release cache", *then]


def test_what_was_compiled_is_kept_once_after_each_make() -> None:
    opener = FakeOpener(TWO_GROUPS)
    engines = EngineSet(opener, Residency.STAGED)
    kept_at_make: list[int] = []

    def make(_engines: Mapping[GraphName, Engine]) -> str:
        kept_at_make.append(opener.kept)
        return "made"

    assert opener.kept == 0
    engines.stage(UNETS, make)
    assert (kept_at_make, opener.kept) == ([0], 1)
    engines.stage(UNETS, make)  # is there already
    assert (kept_at_make, opener.kept) == ([0], 1)
    engines.stage(DECODER, make)
    assert (kept_at_make, opener.kept) == ([0, 1], 2)
    engines.stage(ENCODERS, make)
    engines.stage(UNETS, make)  # its engines were closed meanwhile
    assert (kept_at_make, opener.kept) == ([0, 1, 2, 3], 4)


def test_what_was_compiled_for_a_make_that_failed_is_kept_when_it_succeeds() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    assert engines.stage(UNETS, runs_out(2)) == "made"
    assert opener.kept == 1


def test_what_was_compiled_when_engines_first_ran_is_kept_at_the_end_of_their_first_video() -> None:
    opener = FakeOpener(TWO_GROUPS)
    engines = EngineSet(opener, Residency.STAGED)
    engines.end_video()
    assert opener.kept == 0  # nothing has run
    engines.stage(UNETS, lambda _engines: "made")
    engines.end_video()
    assert opener.kept == 2
    engines.stage(UNETS, lambda _engines: "made")  # is there already, and has run
    engines.end_video()
    assert opener.kept == 2
    engines.stage(ENCODERS, lambda _engines: "made")
    engines.end_video()
    assert opener.kept == 4


@pytest.mark.parametrize(
    ("room", "layout", "warnings"),
    [(FITS_ALL, RESIDENT, 0), (FITS_TWO_GROUPS, TWO_GROUPS, 1), (FITS_THREE_GROUPS, THREE_GROUPS, 2)],
)
def test_auto_goes_on_in_the_first_layout_that_the_device_has_room_for_and_stays_there(
    room: int, layout: Layout, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    opener = FakeOpener(RESIDENT, room=room)
    engines = EngineSet(opener, Residency.AUTO)
    run_video(engines)
    assert engines.layout == layout
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == warnings
    assert all("Going on with fewer engines loaded at a time" in message for message in told)
    opener.taken()
    caplog.clear()
    run_video(engines)
    assert not caplog.records
    assert not any(event.startswith("use") for event in opener.taken())


def test_when_resident_does_not_fit_all_is_closed_before_the_next_layout_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    opener = FakeOpener(RESIDENT, room=FITS_TWO_GROUPS)
    engines = EngineSet(opener, Residency.AUTO)
    events = opener.taken()
    opened = OPEN_ENCODERS + OPEN_UNETS
    assert events[: len(opened)] == opened
    assert set(events[len(opened) : -1]) == closing(opened)
    assert events[-1] == "use 2 groups"
    assert opener.now_open == []
    assert [record.getMessage() for record in caplog.records] == [
        "no room for vae_decoder. Going on with fewer engines loaded at a time."
    ]
    run_video(engines)
    assert opener.taken()[:2] == OPEN_ENCODERS


def runs_out(times: int) -> Callable[[Mapping[GraphName, Engine]], str]:
    """A `make` whose tensors the device has no room for, so often."""
    left = times

    def make(_engines: Mapping[GraphName, Engine]) -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise DeviceMemoryError("no room for tensors")
        return "made"

    return make


def test_no_room_for_what_a_stage_makes_leads_to_a_leaner_layout_too(caplog: pytest.LogCaptureFixture) -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    engines.stage(ENCODERS, names)
    opener.taken()
    assert engines.stage(UNETS, runs_out(1)) == "made"
    events = opener.taken()
    assert set(events[:5]) == closing(OPEN_ENCODERS + OPEN_UNETS + OPEN_DECODER)
    assert events[5:] == ["use 2 groups", *OPEN_UNETS, *OPEN_DECODER]
    assert len(caplog.records) == 1
    assert engines.stage(ENCODERS, names) == ENCODERS


def test_no_room_twice_leads_to_the_leanest_layout() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    assert engines.stage(UNETS, runs_out(2)) == "made"
    assert engines.layout == THREE_GROUPS
    assert opener.now_open == ["unet_cfg", "unet_single"]


def test_no_room_in_any_layout_is_an_error_that_leaves_nothing_open() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    with pytest.raises(DeviceMemoryError, match="no room for tensors"):
        engines.stage(UNETS, runs_out(3))
    assert opener.now_open == []
    assert engines.stage(UNETS, names) == UNETS  # another program may have ended since


@pytest.mark.parametrize("residency", [Residency.AUTO, Residency.STAGED])
def test_no_room_for_the_engines_in_any_layout_is_an_error_that_leaves_nothing_open(residency: Residency) -> None:
    opener = FakeOpener(TWO_GROUPS, room=FITS_NOTHING)
    engines = EngineSet(opener, residency)
    engines.stage(ENCODERS, names)
    with pytest.raises(DeviceMemoryError, match="no room for unet_single"):
        engines.stage(UNETS, names)
    assert opener.now_open == []


def test_resident_that_was_asked_for_does_not_fall_back(caplog: pytest.LogCaptureFixture) -> None:
    opener = FakeOpener(RESIDENT, room=FITS_TWO_GROUPS)
    with pytest.raises(DeviceMemoryError, match="no room for vae_decoder"):
        EngineSet(opener, Residency.RESIDENT)
    assert opener.layout == RESIDENT
    assert opener.now_open == []
    assert not caplog.records

    engines = EngineSet(FakeOpener(RESIDENT), Residency.RESIDENT)
    with pytest.raises(DeviceMemoryError, match="no room for tensors"):
        engines.stage(UNETS, runs_out(1))
    assert engines.layout == RESIDENT


def test_staged_that_was_asked_for_never_becomes_resident() -> None:
    opener = FakeOpener(TWO_GROUPS, room=FITS_THREE_GROUPS)
    engines = EngineSet(opener, Residency.STAGED)
    run_video(engines)
    assert engines.layout == THREE_GROUPS


@pytest.mark.parametrize("broken", [name.value for name in graph_names()])
def test_another_error_is_not_answered_with_another_layout(broken: str) -> None:
    opener = FakeOpener(THREE_GROUPS, broken=broken)
    engines = EngineSet(opener, Residency.STAGED)
    with pytest.raises(EngineError, match=f"{broken} is broken"):
        run_video(engines)
    assert engines.layout == THREE_GROUPS
    assert not any(event.startswith("use") for event in opener.events)


@pytest.mark.parametrize("broken", ["vae_encoder", "vae_decoder"])
def test_an_error_while_all_are_opened_leaves_nothing_open(broken: str) -> None:
    opener = FakeOpener(RESIDENT, broken=broken)
    with pytest.raises(EngineError, match=f"{broken} is broken"):
        EngineSet(opener, Residency.AUTO)
    assert opener.now_open == []
    assert opener.closed


def test_no_room_at_construction_closes_the_opener() -> None:
    opener = FakeOpener(RESIDENT, room=FITS_TWO_GROUPS)
    with pytest.raises(DeviceMemoryError):
        EngineSet(opener, Residency.RESIDENT)
    assert opener.closed


def test_an_error_while_a_group_is_opened_leaves_nothing_open() -> None:
    opener = FakeOpener(THREE_GROUPS, broken="unet_single")
    engines = EngineSet(opener, Residency.STAGED)
    with pytest.raises(EngineError, match="unet_single is broken"):
        engines.stage(UNETS, names)
    assert opener.now_open == []


def test_after_an_error_a_group_can_be_opened_whole() -> None:
    opener = FakeOpener(THREE_GROUPS, broken="unet_single")
    engines = EngineSet(opener, Residency.STAGED)
    with pytest.raises(EngineError, match="unet_single is broken"):
        engines.stage(UNETS, names)
    opener.broken = ""
    run_video(engines)
    assert opener.now_open == ["vae_decoder"]


def test_an_error_in_make_keeps_the_engines_and_is_not_kept_itself() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)

    def fails(_engines: Mapping[GraphName, Engine]) -> None:
        raise EngineError("not this time")

    with pytest.raises(EngineError, match="not this time"):
        engines.stage(UNETS, fails)
    assert engines.stage(UNETS, names) == UNETS
    assert not any(event.startswith("close") for event in opener.events)


def test_what_a_failed_make_had_allocated_is_gone_before_the_next_layout_is_used() -> None:
    class Tensors:
        pass

    allocated: list[weakref.ref[Tensors]] = []
    alive: list[bool] = []
    opener = FakeOpener(TWO_GROUPS)
    use = opener.use

    def watched_use(layout: Layout) -> None:
        alive.append(allocated[0]() is not None)
        use(layout)

    opener.use = watched_use  # type: ignore[method-assign]

    def make(_engines: Mapping[GraphName, Engine]) -> str:
        tensors = Tensors()
        if not allocated:
            allocated.append(weakref.ref(tensors))
            raise DeviceMemoryError("no room for the next one")
        return "made"

    assert EngineSet(opener, Residency.STAGED).stage(UNETS, make) == "made"
    assert alive == [False]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stages", [(), (ENCODERS,), (ENCODERS, UNETS), (ENCODERS, UNETS, DECODER)])
def test_closing_closes_every_open_engine_once_and_then_the_opener(
    layout: Layout, stages: tuple[tuple[GraphName, ...], ...]
) -> None:
    opener = FakeOpener(layout)
    engines = EngineSet(opener, Residency.AUTO)
    for stage in stages:
        engines.stage(stage, names)
    engines.close()
    assert opener.now_open == []
    assert opener.events[-1] == "close opener"
    opened = [event.removeprefix("open ") for event in opener.events if event.startswith("open ")]
    closed = [event.removeprefix("close ") for event in opener.events[:-1] if event.startswith("close ")]
    assert sorted(opened) == sorted(closed)


@pytest.mark.parametrize("error", [DeviceMemoryError, EngineError, KeyboardInterrupt])
def test_closing_after_an_error_closes_all_too(error: type[BaseException]) -> None:
    opener = FakeOpener(TWO_GROUPS)
    engines = EngineSet(opener, Residency.STAGED)

    def fails(_engines: Mapping[GraphName, Engine]) -> None:
        raise error

    with pytest.raises(error):
        engines.stage(DECODER, fails)
    engines.close()
    assert (opener.now_open, opener.closed) == ([], True)


@pytest.mark.parametrize("layout", [RESIDENT, THREE_GROUPS])
def test_after_closing_nothing_is_opened_again(layout: Layout) -> None:
    opener = FakeOpener(layout)
    engines = EngineSet(opener, Residency.AUTO)
    engines.close()
    opener.closed = False  # so that it is the set that refuses
    with pytest.raises(EngineError, match="closed"):
        engines.stage(ENCODERS, names)
    assert opener.now_open == []


def test_closing_twice_closes_the_opener_once() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    engines.close()
    engines.close()
    assert opener.events.count("close opener") == 1


@pytest.mark.parametrize(
    "stuck", [*((name.value,) for name in graph_names()), ("image_encoder", "vae_decoder")], ids=" and ".join
)
def test_an_engine_that_does_not_close_keeps_nothing_else_open(stuck: tuple[str, ...]) -> None:
    opener = FakeOpener(RESIDENT)
    opener.workspace = NotedWorkspace(opener)
    opener.stuck = stuck
    engines = EngineSet(opener, Residency.AUTO)
    opener.events.clear()
    with pytest.raises(EngineError, match=f"({'|'.join(stuck)}) does not close"):
        engines.close()
    assert set(opener.events[1:-2]) == closing(OPEN_ENCODERS + OPEN_UNETS + OPEN_DECODER)
    assert opener.events[-2:] == ["release cache", "close opener"]
    assert (opener.now_open, opener.closed) == ([], True)
    engines.close()  # nothing is left to do, or to complain about
    assert opener.events.count("close opener") == 1


def test_who_asks_for_a_stage_at_a_time_gets_it_from_now_on() -> None:
    opener = FakeOpener(RESIDENT)
    engines = EngineSet(opener, Residency.AUTO)
    opener.taken()
    engines.go_staged()
    *closed, used = opener.taken()
    assert closing(OPEN_ENCODERS + OPEN_UNETS + OPEN_DECODER) <= set(closed)
    assert used == "use 2 groups"
    run_video(engines)
    assert opener.taken()[: len(OPEN_ENCODERS)] == OPEN_ENCODERS
    engines.go_staged()  # it does so already
    assert opener.taken() == []
    assert engines.layout == TWO_GROUPS
