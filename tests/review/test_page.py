"""The page as people use it, in a real browser; and what is on disk when they are done."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import feedback
from pipeline.review import votes
from pipeline.review.batches import Line
from tests.browser import LAPTOP, PHONE, Watched
from tests.review.conftest import BATCH, Served, model
from tests.review.test_queue import write

pytest.importorskip("playwright")
from playwright.sync_api import expect

Serve = Callable[..., Served]
ROOM = 10_000  # milliseconds that a busy machine may take


@pytest.fixture(autouse=True)
def _patient() -> None:
    expect.set_options(timeout=ROOM)


def labels(line: Path) -> dict[tuple[str, str], tuple[int, str]]:
    """(id, who) -> label and defect, of labels.csv."""
    frame = pd.read_csv(line / "scores" / BATCH / "review/labels.csv", keep_default_na=False)
    assert (frame["batch"] == BATCH).all()
    return {(row.id, row.who): (row.label, row.defect) for row in frame.itertuples()}


def decided(page: Any, count: int) -> None:
    expect(page.locator("[data-count=decided]")).to_have_text(str(count))


def sample(page: Any) -> str:
    """The id of the sample on the page."""
    return page.locator("h1.id").inner_text()


def vote(page: Any, key: str, count: int) -> str:
    """Press a key on a sample and wait until `count` are decided; the sample's id."""
    id = sample(page)
    page.keyboard.press(key)
    expect(page.locator("h1.id").filter(has_text=id)).to_have_count(0)
    decided(page, count)
    return id


def zoomed(page: Any) -> tuple[float, float, float]:
    """Scale and offset of the picture."""
    found = page.locator("#layers").evaluate("one => getComputedStyle(one).transform")
    if found == "none":
        return 1.0, 0.0, 0.0
    numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", found.removeprefix("matrix"))]
    return numbers[0], numbers[4], numbers[5]


def test_a_person_reviews_a_batch_with_keys_alone(page: Any, pictures: Path, serve: Serve, database: str) -> None:
    served = serve(pictures)
    page.goto(f"{served.url}/b/{BATCH}")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Zoë")  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.locator("h1.found")).to_have_text("10 samples")
    page.keyboard.press("s")
    expect(page.locator("#picture")).to_be_visible()
    expected: dict[tuple[str, str], tuple[int, str]] = {}
    expected[vote(page, "a", 1), "Zoë"] = (0, "")
    expected[vote(page, "r", 2), "Zoë"] = (1, "")
    vote(page, "u", 3)
    named = sample(page)
    page.keyboard.press("d")
    page.keyboard.type("scratch a, u")  # letters in a field are no votes
    page.keyboard.press("Enter")
    decided(page, 4)
    expected[named, "Zoë"] = (1, "scratch a, u")
    assert labels(pictures) == expected
    mistaken = vote(page, "a", 5)
    page.keyboard.press("z")
    decided(page, 4)
    assert sample(page) == mistaken
    page.reload()
    page.keyboard.press("ControlOrMeta+z")  # also after a reload
    decided(page, 3)
    assert sample(page) == named
    page.keyboard.press("r")
    decided(page, 4)
    expected[named, "Zoë"] = (1, "")
    place = page.locator(".where a[data-key^=g]")
    page.keyboard.press("ArrowRight")
    expect(place).not_to_have_text("5 of 10")
    page.keyboard.press("k")
    page.keyboard.press("g")
    expect(page.locator(".card")).to_have_count(10)
    expect(page.locator(".mark.unsure")).to_have_count(1)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("a")  # no vote behind the help
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    for count in range(5, 11):
        expect(page.locator("h1.id")).to_be_visible()
        expected[vote(page, "a", count), "Zoë"] = (0, "")
    expect(page.locator(".alert.good")).to_contain_text("All 10 samples are decided")
    assert labels(pictures) == expected
    given = feedback.give(pictures, str(pictures / "scores" / BATCH / "review/labels.csv"))
    assert len(given.refused) == 0
    assert {(row.id, "Zoë"): (row.label, row.defect) for row in given.samples.itertuples()} == expected


def test_zoom_by_keys_wheel_double_click_and_drag(page: Any, pictures: Path, serve: Serve) -> None:
    page.goto(f"{serve(pictures, who='Anna').url}/b/{BATCH}/start")
    stage = page.locator("#stage").bounding_box()
    middle = (stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    assert zoomed(page) == (1, 0, 0)
    page.keyboard.press("+")
    page.keyboard.press("=")
    assert zoomed(page)[0] == pytest.approx(2.25)
    expect(page.locator("#zoom")).to_have_text("225%")
    page.keyboard.press("-")
    assert zoomed(page)[0] == pytest.approx(1.5)
    page.keyboard.press("0")
    assert zoomed(page) == (1, 0, 0)
    page.mouse.move(stage["x"] + 10, stage["y"] + 10)
    page.mouse.wheel(0, -400)
    expect(page.locator("#zoom")).not_to_have_text("100%")
    scale, x, y = zoomed(page)
    assert scale == pytest.approx(2.05, abs=0.1)
    assert (x, y) == pytest.approx((-10 * (scale - 1), -10 * (scale - 1)), abs=0.5)  # the place under it stays
    page.mouse.dblclick(*middle)
    assert zoomed(page) == (1, 0, 0)
    page.mouse.dblclick(*middle)
    assert zoomed(page)[0] == pytest.approx(4)
    before = zoomed(page)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 30, steps=3)
    page.mouse.up()
    after = zoomed(page)
    assert (after[1] - before[1], after[2] - before[2]) == pytest.approx((60, 30), abs=1)
    page.mouse.dblclick(*middle)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 200, middle[1])
    page.mouse.up()
    assert zoomed(page) == (1, 0, 0)  # the whole picture cannot be dragged out of sight
    page.keyboard.press("+")
    page.keyboard.press("j")
    expect(page.locator(".where a[data-key^=g]")).to_have_text("2 of 10")
    assert zoomed(page)[0] == 1


def test_the_heat_map_comes_with_its_model_and_fades(page: Any, heated: Path, serve: Serve) -> None:
    page.goto(f"{serve(heated, who='Anna').url}/b/{BATCH}/start")
    heat = page.locator("#heat")
    expect(heat).to_be_visible(timeout=60_000)
    expect(heat).to_have_js_property("complete", True)
    assert heat.evaluate("one => one.naturalWidth / one.naturalHeight") == pytest.approx(1)

    def opacity() -> float:
        return float(heat.evaluate("one => getComputedStyle(one).opacity"))

    assert opacity() == pytest.approx(0.55)
    page.keyboard.press("]")
    assert opacity() == pytest.approx(0.65)
    page.keyboard.press("[")
    page.keyboard.press("[")
    assert opacity() == pytest.approx(0.45)
    slider = page.locator("#opacity")
    slider.focus()
    page.keyboard.press("ArrowRight")  # moves the slider, not to the next sample
    assert opacity() == pytest.approx(0.5)
    slider.fill("90")
    assert opacity() == pytest.approx(0.9)
    page.keyboard.press("h")
    expect(heat).to_be_hidden()
    page.keyboard.press("j")
    expect(page.locator(".where a[data-key^=g]")).to_have_text("2 of 10")
    expect(heat).to_be_hidden()  # the choice stays
    page.keyboard.press("h")
    expect(heat).to_be_visible()
    assert opacity() == pytest.approx(0.9)
    expect(page.locator("dl.figures")).to_contain_text("Alarm above")


def test_without_its_model_the_page_says_why_there_is_no_heat(page: Any, pictures: Path, serve: Serve) -> None:
    page.goto(f"{serve(pictures, who='Anna').url}/b/{BATCH}/start")
    expect(page.locator("#model")).to_contain_text("No heat map: ")
    vote(page, "a", 1)


def test_a_detector_that_tells_no_places(page: Any, pictures: Path, serve: Serve) -> None:
    page.goto(f"{serve(model(pictures, maps=False), who='Anna').url}/b/{BATCH}/start")
    expect(page.locator("#model")).to_contain_text("No heat map: this detector does not tell", timeout=60_000)
    expect(page.locator("#heat")).to_be_hidden()
    page.keyboard.press("j")
    expect(page.locator("#model")).to_contain_text("No heat map: this detector does not tell")


def test_two_people_at_once(browser: Any, page: Any, watched: Watched, pictures: Path, serve: Serve) -> None:
    one, other = serve(pictures), serve(pictures)  # and a server each
    elsewhere = browser.new_context(viewport=LAPTOP)
    watched.watch(elsewhere)
    second = elsewhere.new_page()
    for shown, served, who in ((page, one, "Anna"), (second, other, "Bob")):
        shown.goto(f"{served.url}/b/{BATCH}?sort=order")
        shown.keyboard.type(who)  # over the name that is offered
        shown.keyboard.press("Enter")
        expect(shown.locator("h1.found")).to_be_visible()
        shown.keyboard.press("s")
        expect(shown.locator("h1.id")).to_be_visible()
    both = sample(page)
    assert sample(second) == both  # servers do not know whom the other one shows what
    vote(page, "r", 1)
    decided(second, 1)  # without doing anything
    expect(second.locator("#votes")).to_have_text("Anna: reject")
    hers = vote(page, "a", 2)
    vote(second, "a", 2)
    his = vote(second, "r", 3)
    assert labels(pictures) == {
        (both, "Anna"): (1, ""),
        (both, "Bob"): (0, ""),
        (hers, "Anna"): (0, ""),
        (his, "Bob"): (1, ""),
    }
    page.goto(f"{one.url}/b/{BATCH}?state=conflict")
    page.locator(".card a").click()
    expect(page.locator(".votes")).to_contain_text("People disagree")
    page.keyboard.press("z")  # Anna's last vote, not Bob's
    expect(page.locator("h1.id")).to_have_text(hers)
    assert set(labels(pictures)) == {(both, "Anna"), (both, "Bob"), (his, "Bob")}
    elsewhere.close()


def test_who_shares_a_server_is_not_sent_to_one_sample(
    browser: Any, page: Any, watched: Watched, rows: Path, serve: Serve
) -> None:
    served = serve(rows)
    elsewhere = browser.new_context(viewport=LAPTOP)
    watched.watch(elsewhere)
    second = elsewhere.new_page()
    for shown, who in ((page, "Anna"), (second, "Bob")):
        shown.goto(f"{served.url}/who?next=/b/{BATCH}/start")
        shown.get_by_label("Name").fill(who)
        shown.keyboard.press("Enter")
        expect(shown.locator("h1.id")).to_be_visible()
    assert sample(page) != sample(second)
    done = {vote(page, "a", 1), vote(second, "a", 2), vote(page, "r", 3), vote(second, "u", 4)}
    assert len(done) == 4
    elsewhere.close()


def test_odd_names_are_shown_as_they_are(page: Any, pictures: Path, serve: Serve) -> None:
    served = serve(pictures, who="<b>Anna</b>")
    page.goto(f"{served.url}/b/{BATCH}?sort=order")
    expect(page.locator(".who")).to_have_text("<b>Anna</b>")
    shown = page.locator(".card .id").evaluate_all("all => all.map(one => one.textContent)")
    assert shown == Line(pictures).open(BATCH).queue.ids
    for image in page.locator(".thumb img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("naturalWidth", 96)
    page.locator(".card", has_text="<script>").locator("a").click()
    expect(page.locator("h1.id")).to_have_text("<script>alert(1)</script>.png")
    page.keyboard.press("d")
    page.keyboard.type("<img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    decided(page, 1)
    assert labels(pictures) == {("<script>alert(1)</script>.png", "<b>Anna</b>"): (1, "<img src=x onerror=alert(1)>")}


def test_an_image_that_is_gone_says_so_and_can_be_voted_on(page: Any, pictures: Path, serve: Serve) -> None:
    (pictures / "scores" / BATCH / "samples/00000/images/plain.png").unlink()
    page.goto(f"{serve(pictures, who='Anna').url}/b/{BATCH}?sort=order")
    expect(page.locator(".thumb img")).to_have_count(10)
    page.locator(".card", has_text="plain.png").locator("a").click()
    expect(page.locator(".gone")).to_contain_text("image plain.png is gone since it was ingested")
    vote(page, "r", 1)
    expect(page.locator("#picture")).to_be_visible()
    assert labels(pictures) == {("plain.png", "Anna"): (1, "")}


def test_rows_show_their_columns_those_behind_the_alarm_first(page: Any, rows: Path, serve: Serve) -> None:
    path = rows / "scores" / BATCH / "scores.parquet"
    frame = pd.read_parquet(path)
    because = '[{"column": "c", "value": "<9>", "adds": 0.5}, {"column": "a", "value": "1", "adds": 0.25}]'
    frame.assign(because=[because, *[""] * (len(frame) - 1)]).to_parquet(path, index=False)
    page.goto(f"{serve(rows, who='Anna').url}/b/{BATCH}?sort=order")
    expect(page.locator(".card").first).to_contain_text("c <9>")
    page.locator(".card a").first.click()
    expect(page.locator(".reasons tbody th")).to_have_text(["c", "a"])
    expect(page.locator(".values th")).to_have_text(["b", "d"])
    first = vote(page, "r", 1)
    expect(page.locator(".values th")).to_have_text(["a", "b", "c", "d"])
    assert labels(rows) == {(int(first), "Anna"): (1, "")}


def test_tab_and_enter_are_enough_and_the_focus_is_seen(page: Any, rows: Path, serve: Serve) -> None:
    page.goto(f"{serve(rows, who='Anna').url}/b/{BATCH}/start")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "reject":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    decided(page, 1)
    assert page.evaluate("document.activeElement.value") == "reject"  # the same place on the next sample
    page.keyboard.press("Space")
    decided(page, 2)
    page.keyboard.down("r")
    page.keyboard.down("r")  # held down: the key repeats
    decided(page, 3)
    page.wait_for_timeout(150)
    page.keyboard.up("r")
    decided(page, 3)
    nameless = "all => all.filter(one => !(one.innerText || one.ariaLabel || one.labels?.length)).length"
    assert page.locator("button, a, input").evaluate_all(nameless) == 0
    assert page.locator("img:not([alt])").count() == 0


def test_on_a_phone(browser: Any, watched: Watched, pictures: Path, serve: Serve) -> None:
    served = serve(pictures, who="Anna")
    phone = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    watched.watch(phone)
    page = phone.new_page()
    for place in (f"/b/{BATCH}", "/", f"/b/{BATCH}/start"):
        page.goto(served.url + place)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    button = page.get_by_role("button", name="Accept")
    box = button.bounding_box()
    assert box["height"] >= 44
    assert box["y"] + box["height"] <= PHONE["height"]  # in sight without scrolling
    stage = page.locator("#stage").bounding_box()
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    touch = phone.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60)):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert zoomed(page)[0] == pytest.approx(3, abs=0.4)  # two fingers
    page.wait_for_timeout(500)  # Chromium takes a tap that follows at once for a part of the pinch
    button.tap()
    decided(page, 1)
    phone.close()


def test_everything_works_without_scripts(browser: Any, pictures: Path, serve: Serve) -> None:
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    page.goto(f"{serve(pictures, who='Anna').url}/b/{BATCH}?sort=order")
    page.get_by_role("link", name="Start reviewing").click()
    id = sample(page)
    page.get_by_label("Defect").fill("dent")
    page.get_by_role("button", name="Reject").click()
    decided(page, 1)
    assert labels(pictures) == {(id, "Anna"): (1, "dent")}
    page.get_by_role("button", name="Undo").click()
    decided(page, 0)
    plain.close()


def test_a_server_that_stopped_is_said_and_nothing_is_lost(
    page: Any, watched: Watched, pictures: Path, serve: Serve
) -> None:
    served = serve(pictures, who="Anna")
    page.goto(f"{served.url}/b/{BATCH}/start")
    first = vote(page, "a", 1)
    served.stop()
    second = sample(page)
    page.keyboard.press("r")
    expect(page.locator("#alert")).to_contain_text("The server does not answer")
    serve(pictures, who="Anna", port=served.port)
    vote(page, "r", 2)
    expect(page.locator("#alert")).to_be_hidden()
    assert labels(pictures) == {(first, "Anna"): (0, ""), (second, "Anna"): (1, "")}
    assert all("ERR_CONNECTION" in error for error in watched.errors)
    watched.errors.clear()


def test_labels_changed_by_hand_while_the_page_is_open(
    page: Any, pictures: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes, "SETTLED", 0.05)
    page.goto(f"{serve(pictures, who='Anna').url}/b/{BATCH}/start")
    first = vote(page, "r", 1)
    path = pictures / "scores" / BATCH / "review/labels.csv"
    path.write_text(path.read_text(encoding="utf-8") + "plain.png,good,,,Bob,\n", encoding="utf-8")
    page.reload()
    expect(page.locator(".alert.good")).to_contain_text(
        "labels.csv was changed by hand: 1 labels taken in, 0 taken out"
    )
    decided(page, 2)
    path.write_text("nonsense", encoding="utf-8")
    page.reload()
    expect(page.locator("main .alert.bad")).to_contain_text("cannot be taken in")
    vote(page, "u", 3)
    assert path.read_text(encoding="utf-8") == "nonsense"
    path.unlink()
    page.reload()
    expect(page.locator(".alert.bad:visible")).to_have_count(0)
    assert set(labels(pictures)) == {(first, "Anna"), ("plain.png", "Bob")}


def test_a_hundred_thousand_alarms_are_paged(page: Any, rows: Path, serve: Serve) -> None:
    n = 100_000
    write(rows / "scores/many", ["reject"] * n, [(i + 1) / (n + 1) for i in range(n)], group=25_000)
    served = serve(rows, who="Anna")
    page.goto(f"{served.url}/b/many")
    started = time.perf_counter()
    page.goto(f"{served.url}/b/many?page=1000")
    seconds = time.perf_counter() - started
    expect(page.locator(".card")).to_have_count(60)
    expect(page.locator("h1.found")).to_contain_text("100000 samples, 59941 to 60000 here")
    expect(page.locator(".alert.note")).to_contain_text("Samples of this batch were not kept (score.keep: none)")
    assert seconds < 5  # 0.2 s on an idle machine
    page.keyboard.press("ArrowRight")
    expect(page.locator("h1.found")).to_contain_text("60001 to 60060 here")
    page.keyboard.press("s")
    vote(page, "r", 1)


def test_a_batch_of_no_samples(page: Any, rows: Path, serve: Serve) -> None:
    write(rows / "scores/none", [], [])
    served = serve(rows, who="Anna")
    page.goto(f"{served.url}/b/none")
    expect(page.get_by_role("heading")).to_have_text("Nothing to review")
    page.goto(served.url)
    expect(page.locator(".batches li")).to_have_count(2)
    expect(page.locator(".batches")).to_contain_text("nothing to review")
    page.get_by_text(BATCH).click()
    expect(page.locator(".card")).to_have_count(4)
