"""A document as PDF: whole, escaped, over pages, the same bytes again."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.reports import pdf
from pipeline.reports.document import Document, Facts, Numbers, Section, Table, Text
from tests.reports.worlds import EVIL, document

reads = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext on this machine (poppler-utils)")


def text(path: Path) -> str:
    return subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True).stdout


def pages(path: Path) -> int:
    return max(int(count) for count in re.findall(rb"/Count (\d+)", path.read_bytes()))


def test_unfriendly_text_makes_a_whole_file_and_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    pdf.render(document(EVIL, rows=150), path)
    first = path.read_bytes()
    pdf.render(document(EVIL, rows=150), path)
    assert path.read_bytes() == first
    assert first.startswith(b"%PDF-")
    assert first.rstrip().endswith(b"%%EOF")
    assert pages(path) > 4
    assert list(tmp_path.iterdir()) == [path]


@reads
def test_text_is_text_and_what_the_font_lacks_is_a_box(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    pdf.render(Document("t", "s", [Section("x", [Text(EVIL), Text("Größe ≥ 5 µm")])]), path)
    said = " ".join(text(path).split())
    assert "<script>alert('x')</script> \"quoted\" & it's 50% <b>bold</b> {{ 7 * 7 }} □□ □ □ □drawkcab" in said
    assert "Größe ≥ 5 µm" in said


@reads
def test_a_long_table_goes_on_with_its_headings_and_pages_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    rows = [[f"row {i}", "x" * (i % 3) * 200] for i in range(120)]
    pdf.render(Document("Some title", "s", [Section("Long", [Table(["first heading", "second"], rows)])]), path)
    each = [page for page in text(path).split("\f") if page.strip()]
    assert len(each) == pages(path) > 3
    for number, page in enumerate(each, 1):
        assert page.count("first heading") == 1
        assert re.search(rf"Some title\s+page {number} of {len(each)}", page)
    assert re.findall(r"row (\d+)", " ".join(each)) == [str(i) for i in range(120)]


def test_a_cell_longer_than_a_page_and_a_document_without_anything_fit(tmp_path: Path) -> None:
    endless = "word " * 5000
    wide = Table([endless] * 25, [[endless] * 25] * 3)
    figures = [Numbers([(endless, endless, endless)] * 5), Facts([(endless, endless)])]
    blocks = [Table(["a"], [[endless]]), wide, *figures, Text(endless), Text(endless, "bad")]
    pdf.render(Document("t", "s", [Section("x", blocks)]), tmp_path / "a.pdf")
    pdf.render(Document("", "", []), tmp_path / "b.pdf")
    assert pages(tmp_path / "a.pdf") > 5
    assert pages(tmp_path / "b.pdf") == 1
