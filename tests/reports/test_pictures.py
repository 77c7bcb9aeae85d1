"""Pictures of reports: what they become, and that all of them fit."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pipeline.reports import pictures
from pipeline.reports.document import Document, Gallery, Picture, Section
from tests.reports.worlds import picture


def of(*images: bytes | Path) -> Document:
    return Document("t", "s", [Section("p", [Gallery([Picture(image, "alt") for image in images])])])


def images(document: Document) -> list[bytes]:
    return [each.image for each in document.sections[0].blocks[0].pictures]


def test_a_drawing_keeps_every_pixel_and_a_photograph_becomes_smaller() -> None:
    drawing, photo = picture("drawing"), picture("photo")
    ready = images(pictures.small(of(drawing, photo)))
    kept = Image.open(io.BytesIO(ready[0]))
    assert kept.format == "PNG"
    assert kept.convert("RGB").tobytes() == Image.open(io.BytesIO(drawing)).tobytes()
    found = Image.open(io.BytesIO(ready[1]))
    assert (found.format, found.size) == ("JPEG", (400, 120)) or found.format == "PNG"


def test_files_are_read_and_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture("photo", 3000, 700))
    (ready,) = images(pictures.small(of(path)))
    found = pictures.encoded(Picture(ready, ""))
    assert found is not None
    assert (found.mime, found.width <= pictures.WIDEST, len(found.data) <= pictures.MOST) == ("image/jpeg", True, True)
    assert found.width / found.height == pytest.approx(30 / 7, rel=0.02)


def test_many_pictures_share_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of noise, which nothing makes small but fewer pixels."""
    monkeypatch.setattr(pictures, "BUDGET", 200_000)
    ready = images(pictures.small(of(*[picture("photo", 300, 200)] * 40)))
    assert sum(map(len, ready)) <= 200_000
    assert all(pictures.encoded(Picture(image, "")) is not None for image in ready)


def test_what_is_no_picture_is_empty(tmp_path: Path) -> None:
    cut = picture("photo")[:2000]
    ready = images(pictures.small(of(tmp_path / "gone.png", b"no picture", b"", tmp_path, cut)))
    assert ready == [b""] * 5
    assert pictures.encoded(Picture(b"", "")) is None


def test_doing_it_twice_changes_nothing() -> None:
    once = pictures.small(of(picture("drawing"), picture("photo", 2000, 900)))
    assert images(pictures.small(once)) == images(once)
