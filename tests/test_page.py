"""The page of `omni serve` in a real browser: Chromium, driven by Playwright; nothing is downloaded.

The model is the scripted one, so texts are known; its claims are set, so that each verdict is there once. After every
test: no request has left the server's origin, and the console has no error that was not expected.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from scripted import THOUGHT, scripted
from served import served

from omni import generate
from omni.decoding import Rows
from omni.emotions import EKMAN7
from omni.evidence import Evidence
from omni.serve.page import FOLDER, PAGE, POLICY

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLIPS = Path(__file__).parent.parent / "examples/clips"
CLIP = CLIPS / "conflict.mp4"
KEY = "correct-horse-battery"
ARGUMENTS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
CLAIMS = (
    Evidence(THOUGHT, "face", "smile", 1, "supported", 1.5, 2.0),
    Evidence(THOUGHT, "voice", "pitch_high", 1, "supported", 0.5, 2.5),
    Evidence(THOUGHT, "face", "brow_down", -1, "contradicted"),
    Evidence(THOUGHT, "face", "tears", 1, "uncheckable"),
)
WATCH = """() => {  // keeps every state of the thought that could be seen
    window.seen = [];
    const look = () => {
        const text = document.querySelector(".thought")?.textContent;
        if (text && text !== window.seen.at(-1)) window.seen.push(text);
        requestAnimationFrame(look);
    };
    look();
}"""
CONTRAST = """() => {  // texts whose contrast with what is behind them is less than 4.5 : 1
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = channels(getComputedStyle(at).backgroundColor);
            if (found.length === 3 || found[3] === 1) return found;
        }
    };
    return [...document.querySelectorAll("body *")].filter((element) => {
        const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!text || !element.checkVisibility() || element.disabled) return false;
        const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05) < 4.5;
    }).map((element) => element.textContent.trim());
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "evidence_of", lambda thought, clip: CLAIMS if thought else ())
        with served(scripted()) as running:
            yield running


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no chromium; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def keyed() -> Iterator[SimpleNamespace]:
    with served(scripted(), api_key=KEY) as running:
        yield running


class Visit:
    """A page of a server, and what it asked for and complained of."""

    def __init__(self, browser, url: str, **how) -> None:
        self.url, self.asked, self.faults = url, [], []
        self.expected = ""  # words of complaints that are part of the test
        self.context = browser.new_context(**how)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        self.page.goto(url)

    def ask(self, clip: Path = CLIP) -> None:
        self.page.set_input_files("#file", clip)
        expect(self.page.locator("#send")).to_be_enabled()
        self.page.click("#send")
        expect(self.page.locator("#answer")).to_be_visible()

    def until(self, expression: str) -> None:
        """Wait for JavaScript to be true; Playwright's own way is refused by the page's policy, as it should be."""
        deadline = time.monotonic() + 10
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def until_at(self, seconds: float) -> None:
        self.until(f"document.getElementById('video').currentTime === {seconds}")

    def check(self) -> None:
        self.context.close()
        strangers = [r.url for r in self.asked if not r.url.startswith((f"{self.url}/", f"blob:{self.url}/"))]
        assert not strangers
        assert not [fault for fault in self.faults if not self.expected or self.expected not in fault]


@pytest.fixture
def visit(chromium, server) -> Iterator[Visit]:
    found = Visit(chromium, server.url)
    yield found
    found.check()


@pytest.fixture
def slow(monkeypatch):
    """Every step takes long enough to be seen."""
    step = Rows.step

    def slowed(self) -> None:
        time.sleep(0.05)
        step(self)

    monkeypatch.setattr(Rows, "step", slowed)


# ---- asking ----


def test_an_answer_is_seen_while_it_is_written_and_then_with_all_it_rests_on(visit, slow) -> None:
    page = visit.page
    expect(page.locator("#model")).to_have_text("model: default")
    expect(page.locator("#send")).to_be_disabled()
    page.set_input_files("#file", CLIP)
    page.fill("#question", "How does he feel?")
    page.evaluate(WATCH)
    page.click("#send")
    expect(page.locator("#label")).to_have_text("happy")
    expect(page.locator(".question")).to_have_text("How does he feel?")
    expect(page.locator(".thought")).to_have_text(THOUGHT)
    expect(page.locator(".content")).to_contain_text("happy")
    written = page.evaluate("window.seen")
    assert {"The", "The lips", "The lips are"} <= set(written) and len(written) == len(set(written))
    expect(page.locator("article[aria-busy]")).to_have_count(0)
    bars = page.locator("#bars li")
    expect(bars).to_have_count(7)
    expect(bars.first).to_have_text("happy1.00")
    assert bars.first.locator(".bar span").evaluate("bar => bar.clientWidth / bar.parentElement.clientWidth") > 0.99
    expect(page.locator("#facts")).to_contain_text("Face and voice, 3.1 s.")


def test_each_claim_has_its_verdict_and_a_press_goes_to_its_moment(visit) -> None:
    visit.ask()
    page = visit.page
    chips = page.locator("#reasons .chip")
    words = ["supported: smile1.5–2.0 s", "supported: pitch high0.5–2.5 s", "contradicted: no brow down"]
    for chip, text in zip(chips.all(), [*words, "cannot be checked: tears"], strict=True):
        expect(chip).to_contain_text(text)
    assert [chip.evaluate("chip => chip.tagName") for chip in chips.all()] == ["BUTTON", "BUTTON", "SPAN", "SPAN"]
    visit.until_at(0)
    chips.first.click()
    visit.until_at(1.5)
    expect(chips.first).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#clock")).to_have_text("1.5 s")
    page.get_by_role("group", name="The clip in time").get_by_role("button", name="pitch high").click()
    visit.until_at(0.5)
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(chips.first).to_have_attribute("aria-pressed", "false")


def test_a_claim_stands_on_the_line_of_time_where_it_holds(visit) -> None:
    visit.ask()
    track = visit.page.locator("#voice").bounding_box()
    span = visit.page.locator("#voice .span").bounding_box()
    length = visit.page.evaluate("document.getElementById('video').duration")
    assert (span["x"] - track["x"]) / track["width"] == pytest.approx(0.5 / length, abs=0.01)
    assert span["width"] / track["width"] == pytest.approx(2.0 / length, abs=0.01)


def test_frames_and_wave_are_drawn_from_the_file(visit) -> None:
    visit.expected = "willReadFrequently"  # said to this test, which may read the canvas before the page has drawn
    visit.page.set_input_files("#file", CLIP)
    ink = """id => { const canvas = document.getElementById(id);
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return data.filter((value, i) => i % 4 === 3 && value > 0).length / (canvas.width * canvas.height); }"""
    visit.until(f"({ink})('frames') > 0.9")
    assert 0.02 < visit.page.evaluate(ink, "wave") < 0.9
    assert not [request for request in visit.asked if "/v1/files" in request.url]  # nothing is sent before a question


def test_each_sense_is_asked_by_itself_when_that_is_wanted(visit) -> None:
    visit.ask()
    page = visit.page
    assert not [request for request in visit.asked if request.url.endswith("/v1/labels")]
    page.click("#senses summary")
    expect(page.locator("#senses-of tr")).to_have_count(8)
    expect(page.locator("#senses-of tr").first).to_have_text("BothPictureSound")
    senses = [r.post_data_json["senses"] for r in visit.asked if r.url.endswith("/v1/labels")]
    assert senses == [["video", "audio"], ["video"], ["audio"]]


def test_the_share_of_a_sense_is_how_much_less_likely_the_answer_is_without_it(visit) -> None:
    visit.ask()
    given = {"video,audio": 0.8, "video": 0.4, "audio": 0.2}

    def reply(route) -> None:
        sure = given[",".join(route.request.post_data_json["senses"])]
        labels = dict.fromkeys(EKMAN7, (1 - sure) / 6) | {"happy": sure}
        route.fulfill(json={"labels": labels})

    visit.page.route("**/v1/labels", reply)
    visit.page.click("#senses summary")
    expect(visit.page.locator("#senses-of")).to_contain_text("Share in “happy”: picture 67 %, sound 33 %.")


def test_without_thinking_there_are_no_reasons(visit) -> None:
    visit.page.get_by_role("switch").uncheck()
    visit.page.set_input_files("#file", CLIP)
    visit.page.press("#question", "Enter")
    expect(visit.page.locator("#answer")).to_be_visible()
    request = next(r for r in visit.asked if r.url.endswith("/v1/chat/completions"))
    assert request.post_data_json["think"] is False


def test_a_second_question_goes_on_with_the_conversation(visit) -> None:
    visit.ask()
    visit.page.fill("#question", "And why?")
    visit.page.press("#question", "Enter")
    expect(visit.page.locator("article")).to_have_count(2)
    expect(visit.page.locator("article[aria-busy]")).to_have_count(0)
    asked = [r.post_data_json["messages"] for r in visit.asked if r.url.endswith("/v1/chat/completions")]
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "user"]
    assert (asked[1][1]["content"], asked[1][1]["reasoning_content"]) == ("happy", THOUGHT)
    assert len([r for r in visit.asked if r.url.endswith("/v1/files")]) == 1


def test_the_oldest_turn_is_left_out_when_the_model_can_take_no_more(visit) -> None:
    visit.ask()
    full = {"error": {"message": "Too long.", "code": "context_length_exceeded"}}
    visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json=full), times=1)
    visit.expected = "400"
    visit.page.press("#question", "Enter")
    expect(visit.page.locator("article")).to_have_count(2)
    expect(visit.page.locator("article[aria-busy]")).to_have_count(0)
    expect(visit.page.locator("article").first).to_contain_text("no longer sees this")
    asked = [r.post_data_json["messages"] for r in visit.asked if r.url.endswith("/v1/chat/completions")]
    assert [len(messages) for messages in asked] == [1, 3, 1] and asked[2][0]["content"][0]["type"] == "file"


def test_a_press_stops_the_answer(visit, server, slow) -> None:
    visit.page.set_input_files("#file", CLIP)
    visit.page.click("#send")
    visit.until("Boolean(document.querySelector('.thought')?.textContent)")
    visit.page.click("#stop")
    expect(visit.page.locator("#status")).to_have_text("Stopped.")
    expect(visit.page.locator("article")).to_have_count(0)
    expect(visit.page.locator("#send")).to_be_enabled()
    deadline = time.monotonic() + 5
    while server.clips.thread.active and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.clips.thread.active


# ---- clips ----


def test_a_broken_file_is_told_and_another_can_be_chosen(visit, tmp_path) -> None:
    (tmp_path / "broken.mp4").write_bytes(CLIP.read_bytes()[:2000])
    visit.expected = "400"
    visit.page.set_input_files("#file", tmp_path / "broken.mp4")
    expect(visit.page.locator("#unplayable")).to_be_visible()
    visit.page.fill("#question", "Why?")
    visit.page.click("#send")
    expect(visit.page.get_by_role("alert")).to_contain_text("The clip")
    expect(visit.page.locator("article")).to_have_count(0)
    expect(visit.page.locator("#question")).to_have_value("Why?")
    visit.ask()
    expect(visit.page.get_by_role("alert")).to_have_count(0)
    expect(visit.page.locator("#unplayable")).to_be_hidden()


def test_a_sound_has_a_wave_and_no_frames_and_a_picture_no_time(visit, voice_clip, tmp_path) -> None:
    from PIL import Image

    visit.page.set_input_files("#file", voice_clip)
    expect(visit.page.locator("#wave")).to_be_visible()
    expect(visit.page.locator("#frames")).to_be_hidden()
    Image.effect_noise((64, 64), 90).save(tmp_path / "face.png")
    visit.page.set_input_files("#file", tmp_path / "face.png")
    expect(visit.page.get_by_alt_text("The picture")).to_be_visible()
    expect(visit.page.locator("#timeline")).to_be_hidden()


def test_a_dropped_file_is_chosen(visit) -> None:
    visit.page.evaluate(
        """() => { const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["x"], "dropped.mp4", { type: "video/mp4" }));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true })); }"""
    )
    expect(visit.page.locator("#clip-name")).to_have_text("dropped.mp4")


def test_a_clip_is_recorded_after_a_press_under_a_line_about_consent(visit) -> None:
    page = visit.page
    page.evaluate("""() => { const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = (how) => (window.used = true, ask(how)); }""")
    page.click("#record")
    expect(page.locator("#consent")).to_contain_text("agree")
    expect(page.locator("#consent")).to_be_visible()
    assert page.evaluate("window.used") is None
    page.click("#start")
    expect(page.locator("#recording")).to_have_text("Recording, 1 of 30 s")
    page.click("#finish")
    expect(page.locator("#clip-name")).to_have_text("recording.webm")
    expect(page.locator("#recorder")).to_be_hidden()
    expect(page.locator("#timeline")).to_be_visible()
    assert 0.5 < float(page.get_attribute("#position", "max")) < 5  # although the file does not say it
    page.click("#send")
    expect(page.locator("#label")).to_have_text("happy")


def test_a_recorder_that_is_put_away_switches_the_camera_off_and_keeps_nothing(visit) -> None:
    page = visit.page
    page.evaluate("""() => { const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (how) => (window.stream = await ask(how)); }""")
    page.click("#record")
    page.click("#start")
    expect(page.locator("#finish")).to_be_visible()
    page.click("#record")
    visit.until("window.stream.getTracks().every((track) => track.readyState === 'ended')")
    expect(page.locator("#drop")).to_be_visible()
    expect(page.locator("#send")).to_be_disabled()


def test_the_server_forgets_a_clip_with_the_next_one_and_with_the_page(visit, server) -> None:
    def kept() -> int:
        return len(server.http.get("/v1/files").json()["data"])

    def becomes(number: int) -> None:
        deadline = time.monotonic() + 5
        while kept() != number and time.monotonic() < deadline:
            time.sleep(0.02)
        assert kept() == number

    before = kept()
    visit.ask()
    becomes(before + 1)
    visit.page.set_input_files("#file", CLIPS / "happy.mp4")
    becomes(before)
    visit.ask()
    becomes(before + 1)
    visit.page.close()
    becomes(before)


# ---- for everybody ----


def test_everything_can_be_done_from_the_keyboard(visit) -> None:
    page, keyboard = visit.page, visit.page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(40):
            keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                assert page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{selector} is not reached")

    page.on("filechooser", lambda chooser: chooser.set_files(CLIP))
    tab_to("#choose")
    keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused()
    keyboard.type("Why?")
    keyboard.press("Enter")
    expect(page.locator("#answer")).to_be_visible()
    tab_to("#reasons button")
    keyboard.press("Enter")
    visit.until_at(1.5)
    tab_to("summary")
    keyboard.press("Enter")
    expect(page.locator("#senses-of table")).to_be_visible()
    page.focus("#position")
    keyboard.press("Home")
    visit.until_at(0)


def test_a_screen_reader_finds_a_name_for_every_control_and_hears_the_answer(visit) -> None:
    visit.page.click("#record")
    heard = visit.page.locator("#recorder").aria_snapshot()
    visit.ask()
    heard += visit.page.locator("body").aria_snapshot()
    assert not re.findall(r"- (?:button|textbox|slider|switch|link|img|list|group)(?::?$| \[)", heard, re.MULTILINE)
    for role in ("log", "status", "heading", "switch", "slider", "main", "contentinfo"):
        assert re.search(rf"- {role}\b", heard), role
    expect(visit.page.get_by_role("status").last).to_have_text("It says: happy.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(chromium, server, scheme) -> None:
    visit = Visit(chromium, server.url, color_scheme=scheme)
    visit.page.click("#record")
    assert visit.page.evaluate(CONTRAST) == []
    visit.ask()
    visit.page.locator("#reasons button").first.click()
    assert visit.page.evaluate(CONTRAST) == []
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper[4:].split(",")[0]) > 128) == (scheme == "light")
    visit.check()


def test_a_phone_needs_no_scrolling_to_the_side(chromium, server) -> None:
    visit = Visit(chromium, server.url, viewport={"width": 360, "height": 740}, has_touch=True)

    def width() -> int:
        return visit.page.evaluate("document.documentElement.scrollWidth")

    assert width() <= 360
    visit.page.click("#record")
    assert width() <= 360
    visit.ask()
    visit.page.click("#senses summary")
    expect(visit.page.locator("#senses-of table")).to_be_visible()
    assert width() <= 360
    visit.check()


# ---- safe ----


def test_a_server_with_a_key_is_asked_with_it_and_the_key_is_kept_nowhere(chromium, keyed) -> None:
    visit = Visit(chromium, keyed.url)
    visit.expected = "401"
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    visit.page.fill("#key", "wrong")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#key-wrong")).to_be_visible()
    visit.page.fill("#key", KEY)
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#model")).to_have_text("model: default")
    visit.ask()
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert KEY not in visit.page.evaluate(kept) and KEY not in visit.page.content()
    visit.page.reload()
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    visit.check()


def test_text_is_text_whatever_is_in_it(visit, server, monkeypatch, tmp_path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    claim = Evidence(evil, "face", evil, 1, "supported", 0.0, 1.0)
    monkeypatch.setattr(generate, "evidence_of", lambda thought, clip: (claim,))
    clip = tmp_path / "<img src=x>.mp4"
    clip.write_bytes(CLIP.read_bytes())
    visit.page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    visit.page.set_input_files("#file", clip)
    visit.page.fill("#question", evil)
    visit.page.click("#send")
    expect(visit.page.locator("#answer")).to_be_visible()
    expect(visit.page.locator(".question")).to_have_text(evil)
    expect(visit.page.locator("#reasons")).to_contain_text(evil)
    assert visit.page.locator("main img:visible").count() == 0


def test_the_page_has_a_strict_policy_and_keeps_to_it(server) -> None:
    for path, file in PAGE.items():
        reply = server.http.get(path)
        assert (reply.status_code, reply.content) == (200, file.body)
        assert (
            reply.headers["content-type"] == f"{file.media_type}; charset=utf-8" or file.media_type == "image/svg+xml"
        )
        assert reply.headers["content-security-policy"] == POLICY
        assert reply.headers["x-content-type-options"] == "nosniff" and "set-cookie" not in reply.headers
    assert "unsafe" not in POLICY and "http" not in POLICY and "default-src 'none'" in POLICY
    page = PAGE["/"].body.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=|https?:", page)
    for name, file in PAGE.items():
        if name.endswith((".js", ".css")):
            assert not re.search(rb"https?://|innerHTML|outerHTML|insertAdjacent|eval\(|Storage|cookie", file.body), (
                name
            )


def test_only_the_files_of_the_page_need_no_key(server, keyed) -> None:
    others = ("/page", "/page/", "/page/none.js", "/page/%2e%2e/v1/models", "/page/%2e%2e/app.py", "/v1/models")
    assert all(httpx.get(f"{keyed.url}{path}").status_code == 200 for path in PAGE)
    assert {httpx.get(f"{keyed.url}{path}").status_code for path in others} == {401}
    assert server.http.get("/page/page.py").status_code == 404
    assert {f"/page/{path.name}" for path in FOLDER.iterdir()} - {"/page/page.html"} <= set(PAGE)


def test_the_page_links_to_what_it_must_not_be_used_for(visit) -> None:
    page = visit.page
    page.get_by_role("link", name="What it must not be used for").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What omni must not be used for")
    expect(page.get_by_role("listitem").first).to_contain_text("Article 5(1)(f)")
    page.get_by_role("link", name="model card").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Model card: default")
    expect(page.get_by_role("row").filter(has_text="UAR at once, all clips")).to_contain_text("0.785")
    assert not re.search(r"\*\*|`|\]\(|^[#|]", page.locator("#document").inner_text(), re.MULTILINE)
    assert page.evaluate(CONTRAST) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name="omni").click()
    expect(page.locator("#drop")).to_be_visible()
