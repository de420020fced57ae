"""Archives and directories read in place, honest and hostile ones."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from rootless.errors import ImageError, UsageError
from rootless.image.members import Folder, Members, read
from tests.kit.images import Member, directory, file, hardlink, symlink, tar


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar"


def members(path: Path, *entries: Member, form: int = tarfile.PAX_FORMAT) -> Members:
    path.write_bytes(tar(entries, form))
    return Members(str(path))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_and_links(made: Path, form: int) -> None:
    name = "a" * 90 + "/" + "b" * 90
    archive = members(
        made,
        directory("d"),
        file("./d/x", b"content"),
        file("empty"),
        file(name, b"long"),
        symlink("e/layer.tar", "../d/x"),
        symlink("absolute", "/d/x"),
        hardlink("hard", "d/x"),
        form=form,
    )
    for each in ("d/x", "./d/x", "e/layer.tar", "absolute", "hard", "d/../hard"):
        assert read(archive, each, 100) == b"content"
    assert read(archive, "empty", 0) == b""
    assert read(archive, name, 4) == b"long"
    assert archive.find("d") is None and archive.find("nothing") is None
    with pytest.raises(ImageError, match="has no 'nothing'"):
        read(archive, "nothing", 10)
    with pytest.raises(ImageError, match="the limit is 3"):
        read(archive, "d/x", 3)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([file("../x")], "leads out"),
        ([symlink("x", "../../etc/passwd")], "leads out"),
        ([hardlink("x", "../x")], "leads out"),
        ([file("x", b"1"), file("x", b"2")], "two members"),
        ([file("x", b"1"), file("./x", b"2")], "two members"),
        ([file("x", b"1"), symlink("x", "y")], "two members"),
        ([], "empty"),
    ],
)
def test_hostile_archives(made: Path, entries: list[Member], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        archive = members(made, *entries)
        assert not archive.names
        raise ImageError("empty")


def test_links_in_a_circle(made: Path) -> None:
    archive = members(made, symlink("a", "b"), symlink("b", "a"))
    with pytest.raises(ImageError, match="link to a link"):
        archive.find("a")


def test_links_lead_to_members_only(made: Path) -> None:
    assert members(made, symlink("a", "/etc/passwd")).find("a") is None


def test_archives_that_are_cut_off(made: Path) -> None:
    whole = tar([file("x", b"1" * 2000), file("y", b"2" * 700)])
    last = whole.rindex(b"2") + 1
    for length in (0, 1, 511, 513, 1500, 2600, last - 1):
        made.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=r"cut off|empty|checksum"):
            Members(str(made))
    made.write_bytes(whole[:last])  # tar(1) warns of a missing end, and so it is read
    assert Members(str(made)).names == ("x", "y")


def test_a_member_that_claims_to_be_huge(made: Path) -> None:
    info = tarfile.TarInfo("x")
    info.size = 1 << 62
    made.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ImageError, match="cut off"):
        Members(str(made))


def test_sparse_members_and_huge_records(made: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": "c" * 70_000}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    made.write_bytes(out.getvalue())
    with pytest.raises(ImageError, match="the limit is 65536"):
        Members(str(made))
    (made.parent / "sparse").write_bytes(b"a" + bytes(1 << 20) + b"b")
    with open(made.parent / "sparse", "r+b") as sparse:
        os.truncate(sparse.fileno(), 1)
        os.truncate(sparse.fileno(), 1 << 20)
    os.system(f"tar -C {made.parent} --sparse -cf {made} sparse")
    with pytest.raises(ImageError, match="sparse"):
        Members(str(made))


def test_what_is_no_archive(made: Path) -> None:
    made.write_bytes(b"x" * 5000)
    with pytest.raises(ImageError, match="not a tar archive"):
        Members(str(made))
    with pytest.raises(UsageError, match="cannot open"):
        Members(str(made) + "-missing")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(b"content")
    os.mkfifo(tmp_path / "fifo")
    folder = Folder(str(tmp_path))
    assert read(folder, "d/x", 7) == b"content"
    assert folder.find("y") is None and folder.find("d/x/y") is None
    for name in ("fifo", "d"):
        with pytest.raises(ImageError, match="not a regular file"):
            folder.find(name)
    with pytest.raises(ImageError, match="leads out"):
        folder.find("../x")
    with pytest.raises(UsageError, match="no directory"):
        Folder(str(tmp_path / "missing"))
