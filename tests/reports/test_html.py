"""A document as HTML: whole, escaped, self-contained, the same bytes again."""

import re
from pathlib import Path

from pipeline.reports import html, pictures
from pipeline.reports.document import Document, Section, Table, Text
from tests.reports.worlds import EVIL, document


def page(found: Document) -> str:
    return html.page(pictures.small(found))


def test_what_users_wrote_is_text() -> None:
    text = page(document(EVIL))
    assert "<script" not in text
    assert "<b>" not in text
    assert "{{ 7 * 7 }}" in text
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &#34;quoted&#34; &amp; it&#39;s 50%") > 20
    assert "😀 漢" in text
    assert "\x00" not in text
    text.encode()  # no half of a surrogate pair is left


def test_nothing_is_asked_of_anyone() -> None:
    text = page(document("plain"))
    for name in ("src", "href", "action", "srcset", "data", "poster"):
        assert all(re.match("data:|#", found) for found in re.findall(rf'\b{name}="([^"]*)"', text))
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_it_can_be_read_without_eyes_and_without_a_mouse() -> None:
    text = page(document("plain"))
    alts = re.findall(r'<img [^>]*\balt="([^"]*)"', text)
    assert len(alts) == text.count("<img ") == 4
    assert all(alts)
    assert re.findall("<h([1-6])", text)[0] == "1"
    assert set(re.findall("<h([1-6])", text)) == {"1", "2"}
    assert '<a class="skip" href="#main">' in text
    assert '<th scope="col"' in text
    assert '<th scope="row"' in text
    assert "<caption>plain</caption>" in text
    assert "The picture is gone" in text


def test_anchors_lead_to_their_sections() -> None:
    same = [Section(title, [Text("x")]) for title in ("A & B", "a b", "漢", "!", "empty")]
    text = page(Document("t", "s", [*same[:4], Section("empty", [])]))
    anchors, ids = re.findall('<a href="#([^"]+)"', text), re.findall('<h2 id="([^"]+)"', text)
    assert anchors == ids
    assert len(set(ids)) == 4
    assert "empty" not in text


def test_the_file_is_the_same_again_and_small(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    html.render(document("plain"), path)
    first = path.read_bytes()
    html.render(document("plain"), path)
    assert path.read_bytes() == first
    assert len(first) < 400_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_chart_takes_a_slim_table_beside_it() -> None:
    made = document("plain")
    chart, table = made.sections[3].blocks[0], Table(["a", "b"], [["1", "2"]])
    beside = page(Document("t", "s", [Section("x", [chart, table])]))
    below = page(Document("t", "s", [Section("x", [chart, Text("between"), table])]))
    assert ('class="run beside"' in beside, 'class="run beside"' in below) == (True, False)
