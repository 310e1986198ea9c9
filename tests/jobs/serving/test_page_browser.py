"""The page in a real browser, served by the real endpoint: generate, replace, compare, keep and download sound."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from soundstorm.audio.synthesis import synthesize
from tests.conftest import free_port
from tests.jobs.conftest import wav
from tests.support.browser import OVERFLOW, chromium

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("gradio", reason="the extra 'serve' is not installed")

MEDIA_FLAGS = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
CARD = ".ss-results .ss-card"
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def url(checkpoint: str, ray_session: None) -> Iterator[str]:
    """An endpoint with the page, of a tiny network."""
    from jobs.serving.serve import Options, served

    with served(Options(checkpoint=checkpoint, candidates=1, port=free_port(), max_replicas=1)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(*MEDIA_FLAGS) as browser:
        yield browser


@pytest.fixture(scope="module")
def tabs(browser: Any) -> list[Any]:
    """Tabs, each of a browser session of its own: what one has fetched and compiled of the page's own scripts it does
    not fetch and compile again."""
    return []


@dataclass
class Visit:
    """A visitor with the page open."""

    tab: Any
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    heard: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Listeners, by event."""

    def __post_init__(self) -> None:
        self.tab.set_default_timeout(WAIT_MS)
        self.heard = {
            "request": lambda request: self.requests.append(request.url),
            "console": lambda message: message.type == "error" and self.complaints.append(message.text),
            "pageerror": lambda error: self.complaints.append(str(error)),
        }
        for event, handler in self.heard.items():
            self.tab.on(event, handler)
        self.open()

    def leave(self) -> None:
        """Go away from the page; the tab stays."""
        if not self.tab.is_closed():
            self.tab.goto("about:blank")
            for event, handler in self.heard.items():
                self.tab.remove_listener(event, handler)

    def open(self) -> None:
        self.tab.goto(self.url)
        self.tab.get_by_role("button", name="Generate", exact=True).wait_for()
        self.tab.get_by_text("No sound is pending").or_(self.tab.get_by_text("pending.")).wait_for()

    @property
    def cards(self) -> list[str]:
        return [card.get_attribute("data-id") for card in self.tab.locator(CARD).all()]

    def choose_class(self, part: str, label: str = "Class") -> None:
        box = self.tab.get_by_label(label, exact=True)
        box.click()
        box.press_sequentially(part)
        self.tab.get_by_role("option").first.wait_for()
        box.press("Enter")
        self.tab.get_by_role("option").first.wait_for(state="detached")

    def make(self, part: str = "rain", *, count: int = 1, duration_s: float = 1.0, seed: int = 7) -> list[str]:
        """Make sounds; returns the ids of the newest, the newest first."""
        panel, before = self.tab.get_by_role("tabpanel").first, len(self.cards)
        self.choose_class(part)
        panel.get_by_label("Length in seconds").fill(str(duration_s))
        panel.get_by_label("number input for How many").fill(str(count))
        panel.get_by_label("A new seed each time").uncheck()
        panel.get_by_label("Seed", exact=True).fill(str(seed))
        self.tab.get_by_role("button", name="Generate", exact=True).click()
        self.wait_for_cards(before + count)
        return self.cards[:count]

    def wait_for_cards(self, count: int) -> None:
        self.tab.locator(CARD).nth(count - 1).wait_for()

    def wait_for_value(self, field: Any, value: str) -> None:
        self.tab.wait_for_function("([field, value]) => field.value === value", arg=[field.element_handle(), value])

    def edit_newest(self) -> Any:
        """Put the newest sound on the editor, and return that."""
        self.tab.locator(CARD).first.get_by_role("button", name="Edit").click()
        editor = self.tab.locator(".ss-editor")
        editor.locator("h3").wait_for()
        self.status("edit").filter(has_text="Ready to edit.").wait_for()  # all that the server answered is on the page
        return editor

    def status(self, name: str) -> Any:
        return self.tab.locator(f"#{name}-status p")

    def sound(self, sound_id: str) -> bytes:
        """The bytes that this browser gets."""
        answer = self.tab.context.request.get(f"{self.url}/studio/sounds/{sound_id}")
        assert answer.status == 200
        return bytes(answer.body())


@pytest.fixture
def visit(browser: Any, tabs: list[Any], url: str) -> Iterator[Callable[..., Visit]]:
    """Opens the page as a new visitor. Whatever a test did, the page asked nothing of any other machine, and the
    browser had nothing to complain of."""
    visits: list[Visit] = []

    def open_page(scheme: str = "light", width: int = 1280) -> Visit:
        number = len(visits)
        if number == len(tabs) or tabs[number].is_closed():
            tabs[number:] = [browser.new_context().new_page()]
        tab = tabs[number]
        tab.context.clear_cookies()
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=scheme)
        visits.append(Visit(tab, url))
        return visits[-1]

    yield open_page
    for each in visits:
        each.leave()
        hosts = {urlsplit(request).netloc for request in each.requests if not request.startswith(("data:", "blob:"))}
        assert hosts == {urlsplit(url).netloc}
        assert each.complaints == []


def samples(data: bytes) -> np.ndarray:
    return np.asarray(soundfile.read(io.BytesIO(data), dtype="int16")[0])


def downloaded(tab: Any, name: str) -> bytes:
    with tab.expect_download() as waiting:
        tab.locator(CARD).first.get_by_role("link", name=re.compile(name)).click()
    return Path(waiting.value.path()).read_bytes()


def test_a_class_found_by_name_is_made_shown_and_downloaded_as_the_endpoint_makes_it(
    visit: Callable[..., Visit], url: str
) -> None:
    page = visit()
    first, second = page.make("rai", count=2, seed=7)
    facts = page.tab.locator(f"{CARD} .ss-facts").all_text_contents()
    assert [re.sub(r" made in [\d.]+ s$", "", text) for text in facts] == [
        f"New sound · 1.0 s · seed {seed} ·" for seed in (7, 8)
    ]
    assert page.status("new").text_content().startswith("2 sounds generated in ")
    player = page.tab.locator(f"{CARD} audio").first
    page.tab.wait_for_function("(player) => player.readyState > 0", arg=player.element_handle())
    assert player.evaluate("(player) => player.duration") == pytest.approx(1.0, abs=0.01)
    image = page.tab.locator(f"{CARD} img").first
    assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 50

    served = httpx.post(f"{url}/v1/generate", json={"category": "rain", "duration_s": 1.0, "seed": 7}, timeout=60)
    assert downloaded(page.tab, "^Download Rain") == served.content == page.sound(first)
    assert b'"duration_s": 1.0' in downloaded(page.tab, "^Download the recipe")
    assert page.sound(second) != served.content


def test_regions_are_dragged_typed_or_marked_at_the_player_and_what_is_wrong_is_said_there(
    visit: Callable[..., Visit],
) -> None:
    page = visit()
    [before] = page.make(duration_s=2.0)
    editor = page.edit_newest()
    box = editor.locator(".ss-frame").bounding_box()
    at = [box["x"] + share * box["width"] for share in (0.25, 0.5)]
    page.tab.mouse.move(at[0], box["y"] + 30)
    page.tab.mouse.down()
    page.tab.mouse.move(at[1], box["y"] + 50, steps=4)
    page.tab.mouse.up()
    field = page.tab.locator("#regions textarea, #regions input")
    page.tab.wait_for_function("(field) => field.value !== ''", arg=field.element_handle())
    start_s, end_s = map(float, field.input_value().split("-"))
    assert (start_s, end_s) == (pytest.approx(0.5, abs=0.02), pytest.approx(1.0, abs=0.02))
    assert editor.locator(".ss-region").count() == 1
    page.tab.get_by_role("button", name="Replace", exact=True).click()
    page.wait_for_cards(3)
    old, new = samples(page.sound(before)), samples(page.sound(page.cards[0]))
    first, end = round(start_s * 24_000), round(end_s * 24_000)
    assert (old[:first] == new[:first]).all() and (old[end:] == new[end:]).all()
    assert (old[first:end] != new[first:end]).mean() > 0.5
    assert page.sound(page.cards[1]) != page.sound(page.cards[0])

    field.fill("")
    field.press_sequentially("0.2-0.4, 1-1.5")
    editor.locator(".ss-region").nth(1).wait_for()
    editor.get_by_role("button", name="Unmark 0.2–0.4 s").click()
    page.tab.wait_for_function("(field) => field.value === '1-1.5'", arg=field.element_handle())
    for button, second in (("Mark from here", 0.3), ("Mark to here", 0.8)):
        editor.locator("audio").evaluate(
            "async (player, at) => { const moved = new Promise((done) => { player.onseeked = done; }); "
            "player.currentTime = at; await moved; }", second,
        )  # fmt: skip
        editor.get_by_role("button", name=button).click()
    page.tab.wait_for_function("(field) => field.value === '0.3-0.8, 1-1.5'", arg=field.element_handle())
    for text, sentence in (
        ("1.2-", "Region '1.2-' is not valid: give START-END in seconds, such as 1.2-2.0."),
        ("1-3", "1-3 s reaches beyond the sound, which has 2.00 s: give less."),
        ("", "Mark the regions to replace: drag over the picture, or type seconds such as 1.2-2.0."),
    ):
        field.fill(text)
        field.press("Enter")
        alert = page.tab.locator("#edit-status [role=alert]")
        page.tab.wait_for_function(
            "([alert, text]) => alert && alert.textContent === text", arg=[alert.element_handle(), sentence]
        )
    assert page.tab.get_by_text("Traceback").count() == 0 and len(page.cards) == 3


def test_a_sound_is_varied_continued_and_made_a_loop(visit: Callable[..., Visit]) -> None:
    page = visit()
    [source] = page.make(duration_s=1.0)
    page.edit_newest()
    panel = page.tab.get_by_role("tabpanel")
    page.tab.get_by_role("tab", name="Continue").click()
    begin = page.tab.get_by_label("Seconds to keep from the beginning")
    page.wait_for_value(begin, "0.5")  # half of the sound, which the page has chosen
    page.tab.locator("#edit-count input[type=number]").fill("1")
    page.wait_for_value(page.tab.locator("#edit-count input[type=range]"), "1")
    begin.fill("0.4")
    page.tab.get_by_label("Total length in seconds").fill("1.5")
    page.tab.get_by_role("button", name="Continue", exact=True).click()
    page.wait_for_cards(2)
    page.tab.get_by_role("tab", name="Vary").click()
    page.tab.get_by_role("button", name="Make variations").click()
    page.wait_for_cards(3)
    page.tab.get_by_role("tab", name="Loop").click()
    page.tab.get_by_role("button", name="Make a loop").click()
    page.wait_for_cards(4)
    titles = [text.split(" · ")[0] for text in page.tab.locator(f"{CARD} .ss-facts").all_text_contents()]
    assert titles == ["Rain, as a loop", "Rain, varied by 0.6", "Rain, continued after 0.4 s", "New sound"]
    old, loop, _, longer = (samples(page.sound(each)) for each in (source, *page.cards[:3]))
    assert len(longer) == 36_000 and len(loop) == len(old) == 24_000
    assert panel.count() > 0


def test_what_stays_after_a_reload_is_what_was_there_with_what_is_kept(visit: Callable[..., Visit]) -> None:
    page = visit()
    ids = page.make(count=3)
    card = page.tab.locator(f"{CARD}[data-id='{ids[1]}']")
    card.get_by_role("button", name="Keep").click()
    page.tab.locator(f"{CARD}[data-id='{ids[2]}']").get_by_role("button", name="Remove").click()
    page.tab.locator(f"{CARD}[data-id='{ids[2]}']").wait_for(state="detached")
    page.open()
    page.wait_for_cards(2)
    assert page.cards == ids[:2]
    assert card.get_by_role("button", name="Keep").get_attribute("aria-pressed") == "true"
    assert page.tab.locator(".ss-count").text_content() == "2 sounds, 1 kept"
    page.tab.get_by_label("Only kept sounds").check()
    assert page.tab.locator(f"{CARD}:visible").count() == 1
    with page.tab.expect_download() as waiting:
        page.tab.get_by_role("link", name="Download kept").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert archive.namelist() == ["01-rain-8.flac", "01-rain-8.json"]
        assert archive.read("01-rain-8.flac") == page.sound(ids[1])


def focus(tab: Any) -> str:
    """What has the focus, as a screen reader names it."""
    return str(
        tab.evaluate(
            "() => { const at = document.activeElement; const label = at.labels && at.labels[0]; "
            "return at.getAttribute('aria-label') || (label && label.textContent.trim()) || at.textContent.trim(); }"
        )
    )


def test_the_keyboard_alone_makes_and_keeps_a_sound(visit: Callable[..., Visit]) -> None:
    page = visit()
    tab = page.tab

    def tab_to(name: str) -> None:
        for _ in range(60):
            tab.keyboard.press("Tab")
            if focus(tab).startswith(name):
                return
        raise AssertionError(f"Tab does not come to {name}")

    tab_to("Class")
    tab.wait_for_function("() => document.querySelectorAll('[role=option]').length > 1")  # it listens
    tab.keyboard.type("siren")
    tab.wait_for_function("() => document.querySelectorAll('[role=option]').length === 1")
    tab.keyboard.press("Enter")
    tab.get_by_role("option").first.wait_for(state="detached")
    tab_to("Length in seconds")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("0.5")
    tab_to("Generate")
    tab.keyboard.press("Enter")
    page.wait_for_cards(4)
    tab_to("Keep Siren")
    tab.keyboard.press("Enter")
    tab.locator(f"{CARD} .ss-keep[aria-pressed=true]").first.wait_for()
    assert focus(tab) == "Keep Siren"
    tab_to("Edit Siren")
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.activeElement.closest('.ss-editor')")


def test_without_a_class_or_with_a_wrong_length_the_reason_stands_below_the_button(
    visit: Callable[..., Visit],
) -> None:
    page = visit()
    page.tab.get_by_role("button", name="Generate", exact=True).click()
    page.tab.get_by_text("Choose a class first.").wait_for()
    assert page.status("new").get_attribute("role") == "alert"
    page.choose_class("rain")
    page.tab.get_by_role("tabpanel").first.get_by_label("Length in seconds").fill("100")
    page.tab.keyboard.press("Enter")
    page.tab.get_by_text("Length is 100 s: give 0.05 to 60 seconds.").wait_for()
    assert page.cards == []


def test_an_upload_is_edited_and_what_is_none_is_refused_with_a_sentence(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = visit()
    recording = tmp_path / "my <b>rain.wav"
    recording.write_bytes(wav(np.stack([synthesize("rain", 1, 1.0, 44_100)] * 2, axis=1)))
    (tmp_path / "letter.wav").write_text("this is a letter and not a sound\n" * 50)
    page.tab.get_by_role("tab", name="Edit a sound").click()
    chooser = page.tab.locator("#recording input[type=file]")
    chooser.set_input_files(tmp_path / "letter.wav")
    alert = page.tab.locator("#edit-status [role=alert]")
    alert.wait_for()
    assert re.match(
        r"The file letter\.wav cannot be used \(.+\): give a WAV, FLAC, Ogg or MP3 file\.", alert.text_content()
    )
    chooser.set_input_files(recording)
    page.wait_for_cards(1)
    editor = page.tab.locator(".ss-editor")
    editor.locator("h3").wait_for()
    assert editor.locator("h3").text_content() == page.tab.locator(f"{CARD} h3").text_content()
    assert "rain" in editor.locator("h3").text_content() and editor.locator("b").count() == 0
    page.tab.locator("#regions textarea, #regions input").fill("0.2-0.6")
    page.tab.get_by_role("button", name="Replace", exact=True).click()
    page.tab.get_by_text("Choose a class first.").wait_for()
    page.choose_class("rain", "Class of this sound")
    page.tab.get_by_role("button", name="Replace", exact=True).click()
    page.wait_for_cards(3)
    old, new = samples(page.sound(page.cards[2])), samples(page.sound(page.cards[0]))
    assert len(new) == 24_000 and (old[:4_800] == new[:4_800]).all() and (old[14_400:] == new[14_400:]).all()
    # Gradio's own player may have tried the letter before the page refused it.
    page.complaints[:] = [text for text in page.complaints if not text.startswith("Waveform load error")]


def test_a_sound_is_recorded_with_the_microphone(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.tab.context.grant_permissions(["microphone"])
    page.tab.get_by_role("tab", name="Edit a sound").click()
    page.tab.get_by_role("button", name="Record audio").click()
    page.tab.get_by_role("button", name=re.compile("^Record$")).click()
    page.tab.wait_for_timeout(1_500)
    page.tab.get_by_role("button", name=re.compile("^Stop$")).first.click()
    page.wait_for_cards(1)
    assert "Recording" in page.tab.locator(f"{CARD} .ss-facts").text_content()
    assert len(samples(page.sound(page.cards[0]))) > 12_000


def test_of_two_sounds_the_one_goes_on_where_the_other_is(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.make(count=2, duration_s=3.0)
    cards = page.tab.locator(CARD)
    cards.nth(0).get_by_role("button", name="as A").click()
    cards.nth(1).get_by_role("button", name="as B").click()
    play_a, play_b = (page.tab.get_by_role("button", name=f"Play {slot}") for slot in "AB")
    play_a.click()
    page.tab.wait_for_function("() => document.querySelector('[data-slot=a] audio').currentTime > 0.5")
    play_b.click()
    page.tab.wait_for_function("() => document.querySelector('[data-slot=b] audio').currentTime > 0.5")
    assert page.tab.evaluate("() => document.querySelector('[data-slot=a] audio').paused")
    page.tab.locator(f"{CARD} audio").first.evaluate("(player) => player.play()")
    page.tab.wait_for_function("() => document.querySelector('[data-slot=b] audio').paused")


def test_two_visitors_do_not_see_each_other(visit: Callable[..., Visit], url: str) -> None:
    mine = visit()
    [sound] = mine.make()
    other = visit()
    assert other.cards == []
    address = f"{url}/studio/sounds/{sound}"
    assert mine.tab.context.request.get(address).status == 200
    assert other.tab.context.request.get(address).status == 404
    assert httpx.get(address).status_code == 404


def test_a_closed_page_gives_up_what_is_in_the_making(visit: Callable[..., Visit]) -> None:
    stayer, leaver = visit(), visit()
    leaver.choose_class("rain")
    leaver.tab.get_by_role("tabpanel").first.get_by_label("Length in seconds").fill("60")
    leaver.tab.get_by_label("number input for How many").first.fill("8")
    leaver.tab.get_by_role("button", name="Generate", exact=True).click()
    leaver.tab.get_by_text("8 sounds are pending").wait_for()
    stayer.open()
    assert stayer.tab.get_by_text("8 sounds are pending").count() == 1
    leaver.tab.close()
    for _ in range(18):
        stayer.tab.wait_for_timeout(1_000)
        stayer.open()
        if stayer.tab.get_by_text("No sound is pending").count():
            break
    assert stayer.tab.get_by_text("No sound is pending").count() == 1
    [mine] = stayer.make()
    assert len(samples(stayer.sound(mine))) == 24_000


def test_stop_gives_up_what_is_in_the_making_and_keeps_what_is_made(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.make()
    page.tab.get_by_role("button", name="Stop", exact=True).first.click()
    page.tab.get_by_text("Nothing is being generated.").wait_for()
    page.tab.get_by_role("tabpanel").first.get_by_label("Length in seconds").fill("60")
    page.tab.get_by_role("button", name="Generate", exact=True).click()
    page.tab.get_by_text("1 sound is pending").wait_for()
    page.tab.get_by_role("button", name="Stop", exact=True).first.click()
    page.tab.get_by_text("Stopped: 0 of 1 generated.").wait_for()
    page.tab.get_by_text("No sound is pending").wait_for()
    assert len(page.cards) == 1


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_is_readable_and_fits_its_window(
    visit: Callable[..., Visit], tmp_path: Path, scheme: str, width: int
) -> None:
    page = visit(scheme, width)
    page.make(count=2)
    page.edit_newest()
    page.tab.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert page.tab.evaluate(OVERFLOW) == 0
    for part in ("h1", f"{CARD} .ss-facts", ".ss-cost p", "#inpaint", ".ss-editor h3"):
        assert contrast(page.tab, part) >= 4.5, part
    assert page.tab.evaluate("() => document.querySelector('.dark') !== null") == (scheme == "dark")


def contrast(tab: Any, selector: str) -> float:
    """Of a text with what lies behind it, 1 to 21 (WCAG 2.2, 1.4.3)."""
    colors = tab.locator(selector).first.evaluate(
        """(part) => {
            const ground = (element) => getComputedStyle(element).backgroundColor;
            let behind = part;
            while (behind && /, 0\\)$|transparent/.test(ground(behind))) behind = behind.parentElement;
            return [getComputedStyle(part).color, behind ? ground(behind) : "rgb(255, 255, 255)"];
        }"""
    )
    lights = sorted(luminance(color) for color in colors)
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color: str) -> float:
    values = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
