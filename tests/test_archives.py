"""Archives: what is in them comes out; what climbs, links or explodes is refused."""

import gzip
import io
import resource
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.archives import Limits, extract, is_archive
from pipeline.errors import DataError

CONTENT = {"a/one.txt": b"1" * 10, "a/b/two.txt": b"2" * 3000, "three.txt": b""}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return make_zip(path, members)
    compression = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[path.suffix]
    return make_tar(path, members, f"w:{compression}")


ENDS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@pytest.mark.parametrize("end", ENDS)
def test_everything_comes_out(end: str, tmp_path: Path) -> None:
    archive = make(tmp_path / f"set{end}", CONTENT)
    assert is_archive(archive)
    out = extract(archive, tmp_path / "out")
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == CONTENT


@pytest.mark.parametrize("end", ENDS)
def test_an_archive_of_one_file_is_that_file(end: str, tmp_path: Path) -> None:
    out = extract(make(tmp_path / f"set{end}", {"table.csv": b"a,b\n"}), tmp_path / "out")
    assert out == tmp_path / "out/table.csv"


def test_other_names_are_no_archives() -> None:
    assert not any(is_archive(Path(name)) for name in ("x.npz", "x.gz", "zip", "x.csv"))
    assert is_archive(Path("X.TAR.GZ"))


@pytest.mark.parametrize("end", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["../up.txt", "a/../../up.txt", "/up.txt", "C:\\up.txt", "..\\up.txt"])
def test_members_that_climb_out_are_refused(end: str, name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / f"set{end}", {"fine.txt": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"lies outside of it"):
        extract(archive, tmp_path / "deep/out")
    assert not list(tmp_path.rglob("up.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tars_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        info = tarfile.TarInfo("trap")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match=r"set\.tar holds the link or device 'trap'"):
        extract(tmp_path / "set.tar", tmp_path / "out")


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("trap")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="holds the link 'trap'"):
        extract(tmp_path / "set.zip", tmp_path / "out")


@pytest.mark.parametrize("end", [".zip", ".tar.gz", ".tar.xz"])
def test_a_bomb_stops_while_it_goes_off(end: str, tmp_path: Path) -> None:
    archive = make(tmp_path / f"bomb{end}", {"zeros": bytes(40 << 20)})
    with pytest.raises(DataError, match="grows more than the 200 times"):
        extract(archive, tmp_path / "out", Limits(grace=4 << 20))
    written = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*"))
    assert written <= max(4 << 20, 200 * archive.stat().st_size) + (1 << 20)


def test_a_lying_header_does_not_help_a_bomb(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "bomb.zip", {"zeros": bytes(8 << 20)})
    size = (8 << 20).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (9).to_bytes(4, "little")))
    with pytest.raises(DataError, match="is damaged|grows more than"):
        extract(archive, tmp_path / "out", Limits(grace=1 << 20))
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) <= 2 << 20


def test_size_and_members_are_limited(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "set.tar", CONTENT, "w")
    with pytest.raises(DataError, match="more than the 2 members"):
        extract(archive, tmp_path / "members", Limits(members=2))
    with pytest.raises(DataError, match="more than the 1,000 bytes"):
        extract(archive, tmp_path / "size", Limits(size=1000))


def test_a_giant_header_counts_too(tmp_path: Path) -> None:
    """A pax header is memory, not a file; it must not get past the limits."""
    with tarfile.open(tmp_path / "plain.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("fine.txt")
        info.pax_headers = {"comment": "x" * (20 << 20)}
        archive.addfile(info)
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(DataError, match="grows more than"):
        extract(tmp_path / "set.tar.gz", tmp_path / "out", Limits(grace=1 << 20))


@pytest.mark.parametrize("end", ENDS)
def test_a_cut_archive_is_damaged(end: str, tmp_path: Path) -> None:
    archive = make(tmp_path / f"set{end}", {"noise": bytes(range(256)) * 200})
    archive.write_bytes(archive.read_bytes()[:-1500] if end == ".tar" else archive.read_bytes()[:150])
    if end == ".tar":  # cut inside of the member, not inside of the padding
        archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(DataError, match=rf"archive set{end} is damaged"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("end", ENDS)
def test_something_else_under_the_name_is_damaged(end: str, tmp_path: Path) -> None:
    (tmp_path / f"set{end}").write_bytes(b"this is no archive at all, whatever its name says" * 20)
    with pytest.raises(DataError, match=rf"archive set{end} is damaged"):
        extract(tmp_path / f"set{end}", tmp_path / "out")


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_members_must_not_fall_together(names: tuple[str, str], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="holds two members named"):
        extract(tmp_path / "set.tar", tmp_path / "out")


def test_empty_and_encrypted_archives_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.zip is empty"):
        extract(make_zip(tmp_path / "set.zip", {}), tmp_path / "out")
    locked = make_zip(tmp_path / "locked.zip", {"a": b"1"})
    data = bytearray(locked.read_bytes())
    data[6] |= 1  # the flag of an encrypted member, in both of its headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(data)
    with pytest.raises(DataError, match=r"locked\.zip must not be encrypted"):
        extract(locked, tmp_path / "locked")


def test_macos_shadows_are_left_out(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", {"a/one.txt": b"1", "__MACOSX/a/._one.txt": b"2"})
    out = extract(archive, tmp_path / "out")
    assert [p.name for p in out.iterdir()] == ["a"]


def test_what_our_own_disk_says_is_not_blamed_on_the_archive(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "set.tar", {"a": bytes(1 << 20)}, "w")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            extract(archive, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
