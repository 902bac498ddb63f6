"""The page in a real browser, Chromium driven by Playwright: over a fake worker that waits when told to, and over
`vcut serve` itself.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import uvicorn
from PIL import Image

from tests.serving.app import picture
from tests.serving.sample_jobs import FakeWorker
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.runtime.video import write_mp4
from vcut_trt.serving.api.keys import add_key
from vcut_trt.serving.app import Doors, create_app
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.jobs.service import Service, ServiceConfig
from vcut_trt.serving.worker.messages import Made, Make, StageBegun, StepDone
from vcut_trt.serving.worker.protocol import JobFailedError, WorkerStoppedError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
WAIT_SECONDS = 240.0  # a guard against hanging only
HELD_AT = 2  # steps that are done when a held worker waits
SERVE = "import sys; from vcut_trt.commands.app import main; sys.exit(main())"

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium")
expect = playwright.expect
expect.set_options(timeout=1000 * WAIT_SECONDS)


class FilmWorker(FakeWorker):
    """Makes small grey films; while held, it waits after the second step."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails_with = ""

    def make(self, order: Make) -> Iterator[StageBegun | StepDone | Made]:
        yield StageBegun(job=order.job, stage="condition")
        settings = order.settings
        for step in range(1, settings.num_inference_steps + 1):
            while step > HELD_AT and not self.may_go_on.wait(0.02) and order.job not in self._stopped:
                pass
            if order.job in self._stopped:
                raise WorkerStoppedError
            yield StepDone(job=order.job, step=step, stage=settings.schedule.stage(step).value, seconds=0.1)
        if self.fails_with:
            raise JobFailedError(ErrorCode.FAILED, self.fails_with)
        write_mp4([Image.new("RGB", (128, 64), (40 * i, 90, 90)) for i in range(6)], order.video, settings.fps)
        yield Made(
            job=order.job, timings={"semantic binding": 0.2, "quality improvement": 0.1, "decode": 0.1}, device_bytes=0
        )


class Running:
    """A server in this process, with its worker."""

    def __init__(self, url: str, worker: FilmWorker) -> None:
        self.url = url
        self.worker = worker

    @contextmanager
    def held(self) -> Iterator[None]:
        """Jobs wait after their second step."""
        self.worker.may_go_on.clear()
        try:
            yield
        finally:
            self.worker.may_go_on.set()

    def jobs(self, key: str = "") -> list[dict[str, Any]]:
        """What the API says of the jobs."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        asked = urllib.request.Request(f"{self.url}/v1/videos?limit=100", headers=headers)  # noqa: S310
        with urllib.request.urlopen(asked) as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)["data"]
            return found


@contextmanager
def serving(bundle: Bundle, data: Path, *, keys: Path | None = None, limits: Limits | None = None) -> Iterator[Running]:
    worker = FilmWorker()
    service = Service(ServiceConfig(bundle=bundle, data=data, keys=keys, limits=limits or Limits()), [worker])
    app = create_app(lambda: service, Doors(upload_bytes=2**20), drain_seconds=5)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield Running(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", worker)
    finally:
        worker.may_go_on.set()
        server.should_exit = True
        thread.join()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@dataclass(frozen=True)
class RealServer:
    """`vcut serve`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text())
        assert found
        return found.group()

    def jobs(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/v1/videos") as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)["data"]
            return found

    def worker(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        (worker,) = [child for child in children if "vcut_trt.serving.worker.main" in child.cmdline()]
        return worker


@pytest.fixture(scope="module", autouse=True)
def started(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real server that opens its engines while the other tests run."""
    folder = tmp_path_factory.mktemp("real")
    log = folder / "log"
    command = [sys.executable, "-c", SERVE, "serve", str(nano_bundle.root), "--port", "0", "--data", str(folder / "d")]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    yield RealServer(process, log)
    process.terminate()
    process.wait(WAIT_SECONDS)


@pytest.fixture
def real_server(started: RealServer) -> RealServer:
    until(lambda: "ready:" in started.log.read_text())
    return started


@pytest.fixture(scope="module")
def server(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(nano_bundle, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=1000 * WAIT_SECONDS)
        yield chromium
        chromium.close()


COUNT_URLS = """
window.liveUrls = new Set();
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (blob) => { const url = createObjectURL.call(URL, blob); liveUrls.add(url); return url; };
URL.revokeObjectURL = (url) => { revokeObjectURL.call(URL, url); liveUrls.delete(url); };
"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own. What the console calls an error, a breach of the content policy included, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(1000 * WAIT_SECONDS)
    tab = context.new_page()
    tab.add_init_script(COUNT_URLS)
    errors: list[str] = []

    def hear(text: str) -> None:
        if not text.startswith("Failed to load resource"):  # a refusal of the API; the page itself is checked below
            errors.append(text)

    tab.on("console", lambda message: hear(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on(
        "response",
        lambda answer: errors.append(answer.url) if answer.status >= 400 and "/v1/" not in answer.url else None,
    )
    yield tab
    context.close()
    assert not errors


def choose(page: Page, content: bytes | None = None, name: str = "picture.png", kind: str = "image/png") -> None:
    buffer = picture() if content is None else content
    page.locator("#image").set_input_files({"name": name, "mimeType": kind, "buffer": buffer})


def visit(page: Page, url: str) -> None:
    """Open the page, and wait until it knows its server."""
    page.goto(url)
    expect(page.locator("#facts")).to_be_visible()


def submit(page: Page, url: str, *, steps: int = 4, cut: int | None = None, against: int | None = None) -> None:
    """Open the page and send a picture off."""
    visit(page, url)
    choose(page)
    expect(page.locator("#preview")).to_be_visible()
    page.locator("#num_inference_steps").fill(str(steps))
    if cut is not None:
        page.locator("#cut_step").fill(str(cut))
    if against is not None:
        page.locator("#compare").check()
        page.locator("#compare-step").fill(str(against))
    page.locator("#send").click()
    expect(page.locator(".screen").first).to_be_visible()


def step_of(page: Page) -> Locator:
    return page.locator(".screen .bar")


def is_playable(video: Locator) -> bool:
    return bool(video.evaluate("(video) => video.readyState >= 2"))


# Over a fake worker


def test_a_job_at_work_is_cancelled(page: Page, server: Running) -> None:
    with server.held():
        submit(page, server.url)
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
        expect(step_of(page)).to_have_attribute("aria-valuetext", "Semantic binding, step 3 of 4")
        page.locator(".screen .cancel").press("Enter")
        expect(page.locator(".screen .badge")).to_have_text("Cancelled")
    assert server.jobs()[0]["status"] == "cancelled"
    expect(page.locator(".job-row .badge").first).to_have_text("Cancelled")


def test_two_stages_share_the_bar_and_the_slider(page: Page, server: Running) -> None:
    with server.held():
        submit(page, server.url, steps=10, cut=2)
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
        expect(step_of(page)).to_have_attribute("aria-valuetext", "Quality improvement, step 3 of 10")
        widths = [page.locator(f".segment.{name}").bounding_box() for name in ("binding", "quality")]
    assert widths[0]
    assert widths[1]
    assert widths[1]["width"] / widths[0]["width"] == pytest.approx(9, rel=0.05)
    assert page.locator("#cut-slider").input_value() == "2"
    page.locator("#cut-slider").press("End")
    assert page.locator("#cut_step").input_value() == "11"
    expect(page.locator("#cut-never")).to_be_visible()


def test_the_stage_is_the_one_that_the_server_tells(page: Page, server: Running) -> None:
    """No page can work it out: here the server tells one that no cut step would give."""
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => true })")  # it looks, without a stream

    def tell(route: Any) -> None:
        answer = route.fetch()
        job = answer.json()
        route.fulfill(response=answer, json={**job, "stage": job["stage"] and "decode"})

    page.route(re.compile(r"/v1/videos/video_\w+$"), tell)
    with server.held():
        submit(page, server.url)
        until(lambda: page.evaluate("true") and server.jobs()[0]["step"] == HELD_AT)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # else it looks again after some seconds
        expect(page.locator(".screen .running-text")).to_have_text("Decoding the frames, step 3 of 4")
    expect(page.locator(".screen .badge")).to_have_text("Done")


def test_the_cut_follows_the_steps(page: Page, server: Running) -> None:
    visit(page, server.url)
    expect(page.locator("#cut_step")).to_have_value("17")
    page.locator("#num_inference_steps").fill("50")
    expect(page.locator("#cut_step")).to_have_value("33")
    page.locator("#cut-slider").press("ArrowRight")
    expect(page.locator("#cut_step")).to_have_value("34")
    page.locator("#cut_step").fill("6")
    steps = page.locator("#num_inference_steps")
    steps.fill("")
    steps.press_sequentially("20")
    expect(page.locator("#cut_step")).to_have_value("3")  # after 2 of 20, as after 5 of 50
    page.locator("#compare").check()
    expect(page.locator("#compare-step")).to_have_value("21")  # never stays never
    page.locator("#compare-step").fill("3")
    assert page.locator("#compare-step").evaluate("(input) => input.validationMessage")


def test_what_is_no_picture_is_told_before_and_by_the_server(page: Page, server: Running) -> None:
    before = len(server.jobs())
    visit(page, server.url)
    alert = page.get_by_role("alert")
    choose(page, b"no picture", "notes.txt", "text/plain")
    expect(alert).to_contain_text("notes.txt is not a picture")
    choose(page, b"no picture either", "notes.png")
    expect(alert).to_contain_text("notes.png is not a picture")
    gif = io.BytesIO()
    Image.new("RGB", (9, 9)).save(gif, format="GIF")
    choose(page, gif.getvalue(), "in-disguise.png")
    expect(page.locator("#preview")).to_be_visible()
    page.locator("#send").click()
    expect(alert).to_contain_text("The file is not an image of a known format")
    expect(page.locator("#image")).to_be_focused()
    page.locator("#alert-close").click()
    expect(alert).to_be_empty()
    assert len(server.jobs()) == before


BRING = """([name, bytes]) => {
  const carrier = new DataTransfer();
  carrier.items.add(new File([new Uint8Array(bytes)], 'brought.png', { type: 'image/png' }));
  const common = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(name === 'paste'
    ? new ClipboardEvent(name, { ...common, clipboardData: carrier })
    : new DragEvent(name, { ...common, dataTransfer: carrier }));
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted_anywhere(page: Page, server: Running, way: str) -> None:
    visit(page, server.url)
    page.evaluate(BRING, [way, list(picture())])
    expect(page.locator("#image-label")).to_have_text("brought.png")
    page.locator("#num_inference_steps").fill("3")
    page.locator("#num_inference_steps").press("Enter")
    expect(page.locator(".screen .badge")).to_have_text("Done")


def test_a_hidden_tab_lets_its_connection_go(page: Page, server: Running) -> None:
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.isAway ?? false })")
    begun, ended = [], []
    page.on("request", lambda request: begun.append(request.url) if request.url.endswith("/events") else None)
    page.on("requestfailed", lambda request: ended.append(request.url) if request.url.endswith("/events") else None)
    with server.held():
        submit(page, server.url)
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
        turn = "(away) => { window.isAway = away; document.dispatchEvent(new Event('visibilitychange')); }"
        page.evaluate(turn, True)
        until(lambda: page.evaluate("true") and ended)
        page.evaluate(turn, False)
        until(lambda: page.evaluate("true") and len(begun) == 2)
    expect(page.locator(".screen .badge")).to_have_text("Done")


def test_a_reload_goes_on_watching(page: Page, server: Running) -> None:
    with server.held():
        submit(page, server.url)
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
        page.reload()
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
    until(lambda: is_playable(page.locator(".screen video")))


def test_another_tab_finds_the_job_that_is_being_made(page: Page, browser: Browser, server: Running) -> None:
    with server.held():
        submit(page, server.url)
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
        with browser.new_context() as context:
            context.set_default_timeout(1000 * WAIT_SECONDS)
            other = context.new_page()
            visit(other, server.url)
            expect(step_of(other)).to_have_attribute("aria-valuenow", "2")
    expect(page.locator(".screen .badge")).to_have_text("Done")


def test_broken_connections_are_made_again_and_make_no_second_job(page: Page, server: Running) -> None:
    before = len(server.jobs())
    keys: list[str] = []
    broken = {"POST": 1, "GET": 1}

    def break_once(route: Any, request: Request) -> None:
        if request.method == "POST":
            keys.append(request.headers["idempotency-key"])
        if broken[request.method]:
            broken[request.method] -= 1
            if request.method == "POST":
                route.fetch()  # it arrives, only its answer is lost
            route.abort()
        else:
            route.continue_()

    page.route(re.compile(r"/v1/videos$|/events$"), break_once)
    with server.held():
        submit(page, server.url)
        expect(step_of(page)).to_have_attribute("aria-valuenow", "2")
        until(
            lambda: page.evaluate("true") and broken == {"POST": 0, "GET": 0}
        )  # the page calls back while it is asked
        expect(page.locator(".screen .running-text")).to_have_text("Semantic binding, step 3 of 4")
    expect(page.locator(".screen .badge")).to_have_text("Done")
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len(server.jobs()) == before + 1


def test_a_failed_job_says_why_in_plain_text(page: Page, server: Running) -> None:
    server.worker.fails_with = '<img src="x" onerror="document.title = 0"> at step 3'
    try:
        submit(page, server.url)
        expect(page.locator(".screen .problem")).to_have_text(f"{server.worker.fails_with}.")
    finally:
        server.worker.fails_with = ""
    expect(page).to_have_title("vcut")


def test_jobs_are_opened_reused_and_deleted(page: Page, server: Running) -> None:
    submit(page, server.url, steps=6, cut=5)
    expect(page.locator(".screen .badge")).to_have_text("Done")
    submit(page, server.url, steps=4)
    expect(page.locator(".screen .badge")).to_have_text("Done")
    page.get_by_role("button", name=re.compile("^Open: Cut at c = 5")).first.click()
    expect(page.locator(".screen-title")).to_have_text("Cut at c = 5")
    expect(page.locator("#view-heading")).to_be_focused()
    until(lambda: is_playable(page.locator(".screen video")))
    page.locator(".screen .reuse").click()
    opened = next(job for job in server.jobs() if job["cut_step"] == 5)
    assert page.locator("#num_inference_steps").input_value() == "6"
    assert page.locator("#cut_step").input_value() == "5"
    assert page.locator("#seed").input_value() == str(opened["seed"])
    row = page.locator(".job-row", has_text=str(opened["seed"]))
    for answer, left in (("Keep", 1), ("Delete", 0)):
        row.locator(".remove").click()
        page.get_by_role("dialog").get_by_role("button", name=answer).press("Enter")
        expect(row).to_have_count(left)
    expect(page.locator(".screen")).to_have_count(0)
    assert opened["id"] not in {job["id"] for job in server.jobs()}
    assert page.evaluate("liveUrls.size") == 2  # the icon's and the preview's


def test_seeds_beyond_javascripts_numbers_stay_whole(page: Page, server: Running) -> None:
    visit(page, server.url)
    page.locator("#seed").fill(str(2**64 - 1))
    submitted = page.locator(".screen .numbers")
    choose(page)
    page.locator("#num_inference_steps").fill("3")
    page.locator("#send").click()
    expect(submitted).to_contain_text(str(2**64 - 1))
    said = f"From {-(2**63)} to {2**64 - 1}."
    for seed, message in ((-(2**63), ""), (-(2**63) - 1, said), (2**64 - 1, ""), (2**64, said)):
        page.locator("#seed").fill(str(seed))
        assert page.locator("#seed").evaluate("(input) => input.validationMessage") == message


def test_seeds_stay_whole_in_browsers_that_do_not_tell_a_numbers_text(page: Page, server: Running) -> None:
    """JSON.parse tells a reviver how a number was written in newer browsers only."""
    page.add_init_script(
        "const parse = JSON.parse; JSON.parse = (text, revive) =>"
        " parse(text, revive && function (name, value) { return revive.call(this, name, value); });"
    )
    visit(page, server.url)
    page.locator("#seed").fill(str(-(2**63) + 1))
    choose(page)
    page.locator("#num_inference_steps").fill("3")
    page.locator("#send").click()
    expect(page.locator(".screen .numbers")).to_contain_text(str(-(2**63) + 1))


def test_a_full_queue_says_when_to_try_again(page: Page, nano_bundle: Bundle, tmp_path: Path) -> None:
    with serving(nano_bundle, tmp_path / "d", limits=Limits(jobs_per_key=1)) as full, full.held():
        submit(page, full.url, against=1)
        expect(page.get_by_role("alert")).to_contain_text(re.compile(r"Try again in about \d+ s\."))
        expect(page.locator(".screen")).to_have_count(1)  # the first of the two was taken
        assert len(full.jobs()) == 1


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(page: Page, nano_bundle: Bundle, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "ann")
    with serving(nano_bundle, tmp_path / "d", keys=tmp_path / "keys.json") as guarded:
        visit(page, guarded.url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        page.keyboard.type("vcut_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This API key is not valid.")
        field.fill(key)
        field.press("Enter")
        expect(page.get_by_role("alert")).to_be_empty()
        expect(page.locator("#key-forget")).to_be_visible()
        submit(page, guarded.url)  # loads the page again: the key stays
        until(lambda: is_playable(page.locator(".screen video")))
        assert [job["status"] for job in guarded.jobs(key)] == ["completed"]
        assert page.evaluate("localStorage.length") == 0
        assert not page.context.cookies()
        page.locator("#key-forget").click()
        expect(page.locator(".job-row")).to_have_count(0)
        assert key not in page.evaluate("JSON.stringify(sessionStorage)")


def test_320_pixels_are_wide_enough(page: Page, server: Running) -> None:
    page.set_viewport_size({"width": 320, "height": 640})

    def fits() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    visit(page, server.url)
    page.locator("#more summary").click()
    assert fits()
    with server.held():
        submit(page, server.url, against=1)
        expect(step_of(page).first).to_have_attribute("aria-valuenow", "2")
        assert fits()
    expect(page.locator("#together")).to_be_visible()
    choose(page, b"", f"{'a-long-name-' * 20}.txt", "text/plain")
    expect(page.get_by_role("alert")).not_to_be_empty()
    assert fits()


CONTROLS = "a[href], button, input, select, summary, video[controls]"
UNNAMED = """(controls) => controls.filter((control) => control.checkVisibility())
  .filter((control) => !['VIDEO', 'SUMMARY'].includes(control.tagName))
  .filter((control) => ![control.ariaLabel, control.textContent,
    ...Array.from(control.labels ?? [], (label) => label.textContent)].some((name) => name?.trim()))
  .map((control) => control.outerHTML)"""
NOT_REACHED = f"""() => Array.from(document.querySelectorAll('{CONTROLS}'))
  .filter((control) => control.checkVisibility() && !control.disabled && !reached.has(control))
  .map((control) => control.outerHTML)"""


def test_every_control_has_a_name_and_is_reached_with_the_tab_key(page: Page, server: Running) -> None:
    submit(page, server.url, against=1)
    expect(page.locator("#together")).to_be_visible()
    page.locator("#more summary").click()
    assert page.locator(CONTROLS).evaluate_all(UNNAMED) == []
    page.evaluate("() => { window.reached = new Set(); document.activeElement.blur(); }")
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("() => reached.size === reached.add(document.activeElement).size"):
            break
    assert page.evaluate(NOT_REACHED) == []


def test_who_wants_no_motion_gets_none(page: Page, server: Running) -> None:
    page.emulate_media(reduced_motion="reduce")
    submit(page, server.url)
    video = page.locator(".screen video")
    until(lambda: is_playable(video))
    assert video.evaluate("(video) => video.paused && video.controls && video.loop && video.muted")


# Over the real server


def steps_shown_of(page: Page, server: RealServer, worker: psutil.Process) -> set[int]:
    """Some of the steps that the page shows of the job at work. The worker, which stands still, works for moments
    only, and then waits until the page has kept up: on a busy machine, too.
    """
    shown: set[int] = set()

    def keeps_up() -> bool:
        step = server.jobs()[0]["step"]
        if page.evaluate("document.querySelector('.bar')?.getAttribute('aria-valuenow')") != str(step):
            return False
        shown.add(step)
        return True

    while len(shown) < 4 and server.jobs()[0]["status"] != "completed":
        worker.resume()
        time.sleep(0.02)
        worker.suspend()
        until(lambda: keeps_up() or server.jobs()[0]["status"] == "completed")
    worker.resume()
    return shown


def test_a_picture_becomes_a_video_with_the_keyboard_alone(page: Page, real_server: RealServer) -> None:
    visit(page, real_server.url)
    expect(page.locator("#random-weights")).to_be_visible()
    expect(page.locator("#fact-size")).to_have_text("128 × 64")
    choose(page)
    page.locator("#image").focus()
    page.keyboard.press("Tab")  # the cut step
    page.keyboard.type("3")
    page.keyboard.press("Tab")  # its slider
    page.keyboard.press("Tab")  # steps
    expect(page.locator("#num_inference_steps")).to_be_focused()
    page.keyboard.type("80")
    worker = real_server.worker()
    worker.suspend()
    page.keyboard.press("Enter")
    until(lambda: [job["status"] for job in real_server.jobs()] == ["in_progress"])
    assert len(steps_shown_of(page, real_server, worker)) == 4
    video = page.locator(".screen video")
    until(lambda: video.count() and is_playable(video))
    assert video.evaluate("(video) => [video.videoWidth, video.videoHeight]") == [128, 64]
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").press("Enter")
    assert download.value.suggested_filename.startswith("vcut-c")
    job = real_server.jobs()[0]
    with urllib.request.urlopen(f"{real_server.url}/v1/videos/{job['id']}/content") as answer:  # noqa: S310
        assert Path(download.value.path()).read_bytes() == answer.read()
    expect(page.locator(".screen .numbers")).to_contain_text(str(job["seed"]))


def test_two_cuts_play_side_by_side_in_step(page: Page, real_server: RealServer) -> None:
    submit(page, real_server.url, steps=4, cut=1, against=5)
    expect(page.locator("#together")).to_be_visible()
    expect(page.locator(".screen-title")).to_have_text(["Cut at c = 1", "Never cut"])
    expect(page.locator(".screen-time")).to_have_text([re.compile(r"ran [\d.]+ s")] * 2)
    expect(page.locator("#verdict")).to_contain_text("never cut")
    videos = page.locator(".screen video")
    assert videos.count() == 2
    until(lambda: all(is_playable(video) for video in videos.all()))
    boxes = [video.bounding_box() for video in videos.all()]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    times = "(videos) => videos.map((video) => [video.currentTime, video.paused])"

    def play_in_step() -> bool:
        (first, _), (second, _) = videos.evaluate_all(times)
        return first > 0.3 and abs(first - second) < 1 / 7

    until(play_in_step)
    page.locator("#play").press("Enter")
    (first, is_first_paused), (second, is_second_paused) = videos.evaluate_all(times)
    assert is_first_paused
    assert is_second_paused
    assert first == pytest.approx(second, abs=1e-3)
    page.locator("#forward").press("Enter")
    (further, _), (second_further, _) = videos.evaluate_all(times)
    assert further == pytest.approx(second_further, abs=1e-3)
    assert further != first
    page.locator("#scrub").press("Home")
    expect(page.locator("#transport-text")).to_have_text("Frame 1 of 6")
    pair = real_server.jobs()[:2]
    assert len({job["seed"] for job in pair}) == 1
    assert [job["cut_step"] for job in pair] == [5, 1]
