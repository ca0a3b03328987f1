"""The page in a real browser: tags, timeline and playback; clear words for what is no sound; by keyboard."""

import json
import re

import pytest
from chromium import browser, needs_chromium, served
from fake_run import write_fake_run
from test_serve import LIMITS, changing, sound, tagger  # noqa: F401 (a fixture)

from ast_jax.evaluation.report import write_report
from ast_jax.events import read_events
from ast_jax.inference.serve.app import make_app

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def chromium():
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def address(tagger):  # noqa: F811
    with served(make_app(tagger, LIMITS)) as address:
        yield address


@pytest.fixture
def page(chromium, address):
    """The page, opened; afterwards: it asked nobody but its server, and its script did not fail."""
    context = chromium.new_context(viewport={"width": 360, "height": 740}, permissions=["microphone"])
    page, asked, failed = context.new_page(), [], []
    page.set_default_timeout(20_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address)
    page.get_by_text("The model tells 3 classes apart").wait_for()
    yield page
    outside = [url for url in asked if not url.startswith((address, "blob:", "data:"))]
    context.close()
    assert (outside, failed) == ([], [])


def wav(name: str = "three seconds.wav", body: bytes | None = None) -> dict:
    return {"name": name, "mimeType": "audio/wav", "buffer": sound(3.0) if body is None else body}


def tagged(page, name: str = "three seconds.wav") -> None:
    page.get_by_role("heading", name=name).wait_for()


def until(page, expression: str) -> None:
    """Waits, without wait_for_function: that needs eval, which the pages' own policy forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within 5 s: {expression}")


def test_an_uploaded_wav_is_tagged_drawn_and_played(page):
    page.get_by_label("Sound file").set_input_files(wav())
    tagged(page)
    scores = page.get_by_role("meter").evaluate_all("all => all.map(one => Number(one.ariaValueNow))")
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=2e-3)
    assert page.get_by_role("status").inner_text().startswith("three seconds.wav: ")
    # the spectrogram: as many columns as frames, and not all of one colour
    colours = page.locator("#spectrogram").evaluate(
        "c => [c.width, c.height, "
        "new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size]"
    )
    assert colours[:2] == [298, 128]
    assert colours[2] > 100
    strips = page.locator(".strip").evaluate_all("all => all.map(one => one.children.length)")
    assert strips == [len(page.locator("#table tbody tr").all())] * 3
    # playing moves the cursor over both pictures
    page.locator("#player").evaluate("player => player.play()")
    until(page, "parseFloat(document.getElementById('cursor').style.left) > 5")
    cursor, tracks = page.locator("#cursor").bounding_box(), page.locator("#tracks").bounding_box()
    assert cursor["height"] == tracks["height"] > 150
    assert page.locator("#player").evaluate("player => player.duration") == pytest.approx(3.0, abs=0.01)
    # a click goes there
    page.locator("#player").evaluate("player => player.pause()")
    page.locator("#spectrogram").click(position={"x": tracks["width"] / 2, "y": 20})
    assert page.locator("#player").evaluate("player => player.currentTime") == pytest.approx(1.5, abs=0.1)
    # a phone shows all of it without sideways scrolling
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"only text\n" * 100, "not audio"),
        (sound(3600, "FLAC", 8000, silent=True), "it lasts 3,600 s, and 20 s is the most"),
        (bytes(LIMITS.upload_bytes + 1), "it has 0.4 MB, and 0.4 MB is the most"),
        (sound(2.0)[:9000], "truncated"),
    ],
    ids=["text named wav", "an hour in few bytes", "too many bytes", "cut off"],
)
def test_what_is_no_sound_is_told_and_the_next_one_works(page, body, words):
    page.get_by_label("Sound file").set_input_files(wav("odd.wav", body))
    page.get_by_role("alert").get_by_text(words).wait_for()
    assert page.get_by_role("alert").inner_text().startswith("odd.wav: ")
    assert not page.locator("#result").is_visible()
    page.get_by_label("Sound file").set_input_files(wav())
    tagged(page)
    assert page.get_by_role("alert").inner_text() == ""


def test_a_dropped_sound_and_a_recorded_one(page):
    page.evaluate(
        """bytes => { const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, cancelable: true})); }""",
        list(sound(1.0)),
    )
    tagged(page, "dropped.wav")
    page.get_by_role("button", name="Record").click()
    stop = page.get_by_role("button", name="Stop recording", pressed=True)
    stop.wait_for()
    page.wait_for_timeout(1000)
    stop.click()
    tagged(page, "your recording")
    assert float(page.locator("#seek").get_attribute("max")) > 0.5
    page.get_by_role("button", name="Record", pressed=False).wait_for()


def test_what_a_screen_reader_hears(page):
    empty = page.locator("body").aria_snapshot()
    assert '- heading "What is in this sound?" [level=1]' in empty
    assert '- region "Choose a sound"' in empty
    assert '- button "Sound file, or drop one anywhere on this page"' in empty
    assert '- button "Record"' in empty
    assert "- status" in empty
    assert "- alert" in empty
    page.get_by_label("Sound file").set_input_files(wav())
    tagged(page)
    told = page.locator("#result").aria_snapshot()
    assert told.startswith('- region "three seconds.wav"')
    assert '- list "Tags"' in told
    assert len(re.findall(r'- meter "(bell|rain|siren)"', told)) == 3
    assert re.search(r'- img "Spectrogram of three seconds.wav, 3.00 s, 20 Hz to 8 kHz"', told)
    assert len(re.findall(r'img "(bell|rain|siren): strongest, [\d.]+\s%, from', told)) == 3
    assert '- slider "Position in the sound"' in told
    assert "cursor" not in told
    page.get_by_text("The timeline as a table").click()
    rows = page.get_by_role("region", name="Scores by time").aria_snapshot()
    assert '- columnheader "bell"' in rows
    assert '- rowheader "0.00 to' in rows
    # everything that takes the focus has a name, and nothing is told twice by the same id
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, audio, canvas, [role=meter], [tabindex]")]
        .filter(e => !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim()))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_everything_is_reached_by_keyboard(page):
    page.bring_to_front()  # keys go where the focus is, and on a busy machine a new page may be without it
    page.keyboard.press("Tab")
    until(page, "document.activeElement.id === 'file'")
    # a listener first: on a busy machine a key may come before the browser asks us for the file
    choosers: list = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for _ in range(20):
        page.keyboard.press("Space")
        page.wait_for_timeout(500)
        if choosers:
            break
    choosers[0].set_files(wav())
    tagged(page)
    page.keyboard.press("Tab")
    focused = "document.activeElement.id || document.activeElement.tagName"
    assert page.evaluate(focused) == "record"
    for _ in range(12):  # the player's own buttons come between
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "seek":
            break
    assert page.evaluate(focused) == "seek"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("End")
    assert page.locator("#seek").get_attribute("aria-valuetext").startswith("3.00 s: ")
    page.keyboard.press("Home")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert page.locator("#player").evaluate("player => player.currentTime") == pytest.approx(0.5, abs=0.01)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("region", name="Scores by time").is_visible()


def test_events_are_found_listed_played_and_saved(page, tagger):  # noqa: F811
    page.get_by_label("Sound file").set_input_files(wav(body=changing()))
    tagged(page)
    wanted = tagger.events(changing())
    page.get_by_role("button", name="Find events").click()
    count = f"{len(wanted)} event" + "s" * (len(wanted) != 1)
    page.get_by_text(f"{count}; press one to hear it.").wait_for()
    told = page.get_by_role("list", name="Events").get_by_role("button").all_inner_texts()
    assert [text.split()[0] for text in told] == [event.label for event in wanted]
    assert page.locator("#marks .track").count() == len({event.label for event in wanted})
    # one is played from its beginning and no further than its end
    last = max(range(len(wanted)), key=lambda i: wanted[i].onset_s)
    page.locator("#events button").nth(last).click()
    until(page, "!document.getElementById('player').paused || document.getElementById('player').currentTime")
    until(page, "document.getElementById('player').paused")
    at = page.locator("#player").evaluate("player => player.currentTime")
    assert wanted[last].onset_s < at
    assert at == pytest.approx(wanted[last].offset_s, abs=0.3)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as Audacity labels").click()
    saved = read_events(download.value.path(), "three seconds.wav")
    assert [event.label for event in saved] == [event.label for event in wanted]
    # another sound has events of its own
    page.get_by_label("Sound file").set_input_files(wav("other.wav"))
    tagged(page, "other.wav")
    assert page.locator("#events button").count() == 0
    assert page.get_by_role("button", name="Find events").is_visible()


def test_a_server_that_is_gone_is_said_to_be(page):
    page.route("**/api/tags*", lambda route: route.abort())
    page.get_by_label("Sound file").set_input_files(wav())
    told = page.get_by_role("alert").get_by_text("the server does not answer")
    told.wait_for()
    assert told.is_visible()


def test_the_report_opens_from_disk_sorts_and_plays(chromium, tmp_path):
    directory = write_fake_run(tmp_path / "run", clips=60, epochs=3, frames=64, audio=True)
    results = json.loads((directory / "results.json").read_text())
    context = chromium.new_context()
    page, asked, failed = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: failed.append(message.text))
    page.goto(write_report(directory).as_uri())
    column = page.locator(".classes tbody tr td:nth-child(2)")
    values = [row["ap"] for row in results["per_class"]]
    shown = lambda: [float(text) for text in column.all_inner_texts()]
    assert shown() == pytest.approx(sorted(values, reverse=True), abs=5e-4)
    page.get_by_role("button", name="AP", exact=True).focus()
    page.keyboard.press("Enter")
    assert shown() == pytest.approx(sorted(values), abs=5e-4)
    player = page.locator("audio").first
    player.evaluate("player => player.play()")
    until(page, "document.querySelector('audio').currentTime > 0")
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert failed == []  # the page's own policy forbids nothing that it needs
    context.close()
