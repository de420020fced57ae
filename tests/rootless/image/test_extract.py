"""Layers as trees: what they must hold, and what an evil archive must not reach."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fuse.index import Index
from fuse.indexformat import OPAQUE, WHITEOUT
from rootless.errors import ImageError
from rootless.image.extract import TreeExtractor
from rootless.image.index import LayerIndex
from rootless.image.removal import remove_tree
from rootless.oci.tar import TarEntry, TarParser
from tests.kit import images
from tests.kit.userns import in_namespaces

Found = dict[str, tuple[int, int, int, Any]]


def extract(raw: bytes, path: str, *, squash: bool = False, step: int = 700) -> list[str]:
    """Extract an archive, in small steps. Returns the notes."""
    tree = TreeExtractor(path, squash=squash)
    try:
        parser = TarParser(data=True)
        for at in range(0, len(raw), step):
            for event in parser.feed(raw[at : at + step]):
                if isinstance(event, TarEntry):
                    tree.add(event)
                else:
                    tree.write(event)
        parser.close()
        tree.finish()
        return tree.notes
    finally:
        tree.close()


def walk(path: str) -> Found:
    """Relative path to (mode, uid, gid, content, link target or device number)."""
    found: Found = {}
    for directory, names, files in os.walk(path):
        for name in [*names, *files]:
            full = os.path.join(directory, name)
            status = os.lstat(full)
            content: Any = None
            if stat.S_ISREG(status.st_mode):
                with open(full, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(full)
            elif stat.S_ISCHR(status.st_mode):
                content = (os.major(status.st_rdev), os.minor(status.st_rdev))
            found[os.path.relpath(full, path)] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def extracted(tmp_path: Path, raw: bytes, look: Callable[[str], Any] = walk, **options: Any) -> Any:
    """What `look` sees in the tree, made as root of a user namespace, and removed again there."""
    path = str(tmp_path / "tree")

    def work() -> Any:
        try:
            notes = extract(raw, path, **options)
        except ImageError as error:
            return error.message
        else:
            return look(path), notes
        finally:
            remove_tree(path)

    result = in_namespaces(work, single_id=bool(options.get("squash")))
    assert not os.path.lexists(path)
    return result


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file that no archive may touch, beside where trees are made."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    yield secret
    assert secret.read_text() == "secret"
    assert {entry.name for entry in tmp_path.iterdir()} == {"secret"}


@pytest.mark.userns
def test_owners_modes_links_devices(tmp_path: Path) -> None:
    raw = images.tar(
        [
            images.directory("d", mode=0o2750, uid=1000, gid=50),
            images.file("d/f", b"content" * 1000, mode=0o4711, uid=65534, gid=65534),
            images.hardlink("d/g", "d/f"),
            images.symlink("l", "/etc/passwd"),
            images.fifo("p"),
            images.device("null", 1, 3),
            images.file("without/parents", b"x", uid=7),
        ]
    )
    found, notes = extracted(tmp_path, raw)
    assert found["d"] == (stat.S_IFDIR | 0o2750, 1000, 50, None)
    assert found["d/f"] == found["d/g"] == (stat.S_IFREG | 0o4711, 65534, 65534, b"content" * 1000)
    assert found["l"][3] == "/etc/passwd"
    assert stat.S_ISFIFO(found["p"][0])
    assert found["null"][0] == stat.S_IFREG | 0o666
    assert found["without"][:3] == (stat.S_IFDIR | 0o755, 0, 0)
    assert found["without/parents"][1] == 7
    assert "1 device nodes became empty files" in notes[0]


@pytest.mark.userns
def test_whiteouts(tmp_path: Path) -> None:
    raw = images.tar(
        [
            images.directory("d"),
            images.file("d/.wh.gone"),
            images.file("d/.wh.own", b""),
            images.file("d/own", b"kept"),
            images.directory("d/again"),
            images.file("d/.wh.again"),
            images.file("o/.wh..wh..opq"),
            images.file("o/.wh..wh.plnk"),
        ]
    )

    def look(path: str) -> Any:
        opaque = {name for name in ("d", "o", "d/again") if "user.overlay.opaque" in os.listxattr(f"{path}/{name}")}
        return walk(path), opaque

    (found, opaque), _ = extracted(tmp_path, raw, look)
    assert stat.S_ISCHR(found["d/gone"][0]) and found["d/gone"][3] == (0, 0)
    assert found["d/own"][3] == b"kept"
    assert opaque == {"o", "d/again"}
    assert sorted(found) == ["d", "d/again", "d/gone", "d/own", "o"]


@pytest.mark.userns
def test_times_xattrs_and_replacement(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.user.overlay.redirect": "/etc", "mtime": "1234567890.123456789"}
    raw = images.tar(
        [
            images.directory("d"),
            images.file("d/inner", b"goes away"),
            images.file("d", b"a file now", pax_headers=pax),
            images.file("f", b"first"),
            images.hardlink("g", "f"),
            images.file("f", b"second"),
            images.directory("again", mode=0o700),
            images.file("again/x", b"x"),
            images.directory("again", mode=0o711),
        ]
    )

    def look(path: str) -> Any:
        return (
            walk(path),
            os.listxattr(f"{path}/d"),
            os.stat(f"{path}/d").st_mtime_ns,
            os.stat(f"{path}/again").st_mtime,
        )

    (found, xattrs, mtime, directory_mtime), _ = extracted(tmp_path, raw, look)
    assert found["d"][3] == b"a file now" and "d/inner" not in found
    assert (found["f"][3], found["g"][3]) == (b"second", b"first")
    assert xattrs == ["user.a"]
    assert mtime == 1234567890_123456789
    assert stat.S_IMODE(found["again"][0]) == 0o711 and "again/x" in found
    assert directory_mtime == 1_700_000_000


@pytest.mark.userns
def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    holes = tmp_path / "holes"
    with open(holes, "wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
        file.truncate(16 << 20)
    archive = tmp_path / "sparse.tar"
    os.system(f"tar -C {tmp_path} -S --format=posix --owner=0 --group=0 --numeric-owner -cf {archive} holes")
    raw = archive.read_bytes()
    archive.unlink()
    holes.unlink()

    def look(path: str) -> Any:
        status = os.stat(f"{path}/holes")
        with open(f"{path}/holes", "rb") as file:
            file.seek(8 << 20)
            return status.st_size, status.st_blocks, file.read(3)

    (size, blocks, content), _ = extracted(tmp_path, raw, look)
    assert (size, content) == (16 << 20, b"end")
    assert blocks < 2048


@pytest.mark.userns
def test_zeros_cost_no_disk(tmp_path: Path) -> None:
    """Also those that the archive has in full, as a bomb does."""
    content = bytes(8 << 20) + b"end" + bytes(1 << 20)
    raw = images.tar([images.file("zeros", content), images.file("few", bytes(100))])

    def look(path: str) -> Any:
        with open(f"{path}/zeros", "rb") as zeros, open(f"{path}/few", "rb") as few:
            return zeros.read() == content, few.read(), os.stat(f"{path}/zeros").st_blocks

    (same, few, blocks), _ = extracted(tmp_path, raw, look, step=1 << 18)
    assert same and few == bytes(100)
    assert blocks * 512 < 1 << 20


@pytest.mark.userns
def test_ids_outside_the_map(tmp_path: Path) -> None:
    raw = images.tar([images.file("f", uid=3_000_000_000)])
    assert "belongs to user 3000000000" in extracted(tmp_path, raw)


@pytest.mark.userns
def test_single_id_mode(tmp_path: Path) -> None:
    raw = images.tar([images.file("f", b"x", mode=0o4755, uid=1000, gid=1000), images.file(".wh.g")])
    found, _ = extracted(tmp_path, raw, squash=True)
    assert found["f"] == (stat.S_IFREG | 0o4755, 0, 0, b"x")
    assert stat.S_ISCHR(found["g"][0])


ATTACKS: dict[str, list[images.Member]] = {
    "absolute link as a parent": [images.symlink("d", "/"), images.file("d/tmp/rc-attack/evil", b"x")],
    "relative link as a parent": [images.symlink("d", "../../.."), images.file("d/secret", b"x")],
    "link to the file itself": [images.symlink("secret", "../secret"), images.file("secret", b"x")],
    "hard link through a link": [images.symlink("d", ".."), images.hardlink("h", "d/secret"), images.file("h", b"x")],
    "whiteout through a link": [images.symlink("d", ".."), images.file("d/.wh.secret")],
    "opaque through a link": [images.symlink("d", ".."), images.file("d/.wh..wh..opq")],
    "directory over a link": [
        images.symlink("d", ".."),
        images.directory("d", mode=0o777),
        images.file("d/secret", b"x"),
    ],
    "attributes through a link": [
        images.directory("d", mode=0o700),
        images.symlink("d", "../secret"),
    ],
    "chain of links": [
        images.symlink("a", "b"),
        images.symlink("b", "/.."),
        images.file("a/secret", b"x"),
    ],
    "magic link": [images.symlink("p", "/proc/self/cwd"), images.file("p/evil", b"x")],
}
REFUSED: dict[str, list[images.Member]] = {
    "dots": [images.file("../secret", b"x")],
    "dots inside": [images.file("a/../../secret", b"x")],
    "hard link out": [images.hardlink("h", "../secret")],
    "hard link to nothing": [images.hardlink("h", "nothing")],
    "hard link to a directory": [images.directory("d"), images.hardlink("h", "d")],
    "file as a directory": [images.file("f", b"x"), images.file("f/g", b"x")],
    "whiteout of nothing": [images.file("d/.wh.")],
    "whiteout of dots": [images.file("d/.wh...")],
    "a loop of links": [images.symlink("a", "b"), images.symlink("b", "a"), images.file("a/f", b"x")],
    "root is a file": [images.file("./", b"")],
}


@pytest.mark.userns
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_leaves_the_tree(tmp_path: Path, outside: Path, name: str) -> None:
    extracted(tmp_path, images.tar(ATTACKS[name]))
    assert not os.path.lexists("/tmp/rc-attack")


@pytest.mark.userns
@pytest.mark.parametrize("name", REFUSED)
def test_malformed_trees_are_refused(tmp_path: Path, outside: Path, name: str) -> None:
    assert isinstance(extracted(tmp_path, images.tar(REFUSED[name])), str)


@pytest.mark.parametrize("name", REFUSED)
def test_the_index_refuses_them_too(name: str) -> None:
    index = LayerIndex()
    with pytest.raises(ImageError):
        for event in TarParser().feed(images.tar(REFUSED[name])):
            assert isinstance(event, TarEntry)
            index.add(event)


@pytest.mark.userns
def test_a_name_of_255_bytes_and_deep_trees(tmp_path: Path) -> None:
    deep = "/".join(["d" * 20] * 190)
    raw = images.tar([images.file("n" * 255, b"x"), images.file(deep + "/f", b"deep")], tarfile.GNU_FORMAT)
    found, _ = extracted(tmp_path, raw, lambda path: (os.listdir(path), None))
    assert found[0].count("n" * 255) == 1


@pytest.mark.userns
def test_tree_and_index_agree(tmp_path: Path) -> None:
    """The two drivers must show the same layer."""
    raw = images.tar(
        [
            images.symlink("var", "real/var"),
            images.file("var/log/x", b"through a link to nothing"),
            images.directory("etc", mode=0o711),
            images.file("etc/a", b"1"),
            images.hardlink("etc/b", "./etc/a"),
            images.file("etc/a", b"2"),
            images.file(".wh.etc"),
            images.file("opt/.wh..wh..opq"),
            images.file("/abs/./file", b"3", mode=0o600, uid=3, gid=4),
        ]
    )
    found, _ = extracted(tmp_path, raw)
    writer = LayerIndex()
    for event in TarParser().feed(raw):
        assert isinstance(event, TarEntry)
        writer.add(event)
    path = str(tmp_path / "index")
    writer.write(path)
    index = Index(path)
    indexed = {}

    def visit(number: int, prefix: str) -> None:
        for child in index.children(number):
            node = index.node(child)
            name = os.path.join(prefix, index.name(node).decode())
            mode = index.node(node.inode).mode if stat.S_ISREG(node.mode) else node.mode
            indexed[name] = (mode, node.uid, node.gid)
            visit(child, name)

    visit(0, "")
    index.close()
    assert indexed == {name: values[:3] for name, values in found.items()}


def _random_layer(random: Random) -> list[images.Member]:
    names = (
        "a",
        "b",
        "a/c",
        "b/c",
        "a/c/d",
        "l/c",
        "l",
        "a/l/x",
        ".wh.a",
        "a/.wh.c",
        "b/.wh..wh..opq",
        "l/.wh.c",
        "./a/../b",
    )
    members = []
    for number in range(random.randint(1, 7)):
        name = random.choice(names)
        kind = random.choice("ffddshp") if ".wh." not in name else "f"
        if kind == "f":
            members.append(images.file(name, b"%d" % number, mode=random.choice((0o644, 0o4755)), uid=number))
        elif kind == "d":
            members.append(images.directory(name, mode=random.choice((0o755, 0o1777)), uid=number))
        elif kind == "s":
            members.append(images.symlink(name, random.choice(("a", "/b", "..", "../b/c", "nothing/here", "l"))))
        elif kind == "h":
            members.append(images.hardlink(name, random.choice(("a", "b/c", "l", "a/c"))))
        else:
            members.append(images.fifo(name))
    return members


def _seen_in_index(raw: bytes, path: str) -> Any:
    """Path to (mode, uid, number of names, opaque), or None if the layer is refused."""
    writer = LayerIndex()
    try:
        for event in TarParser().feed(raw):
            assert isinstance(event, TarEntry)
            writer.add(event)
        writer.write(path)
    except ImageError:
        return None
    index = Index(path)
    found = {}

    def visit(number: int, prefix: str) -> None:
        for child in index.children(number):
            node = index.node(child)
            inode = index.node(node.inode)
            name = os.path.join(prefix, index.name(node).decode())
            if node.flags & WHITEOUT:
                found[name] = (stat.S_IFCHR, 0, 1, False)
            else:
                links = 1 if stat.S_ISDIR(inode.mode) else inode.nlink
                found[name] = (inode.mode, inode.uid, links, bool(node.flags & OPAQUE))
            visit(child, name)

    visit(0, "")
    index.close()
    return found


def _seen_in_tree(raw: bytes, path: str) -> Any:
    try:
        extract(raw, path)
    except ImageError:
        return None
    found = {}
    for directory, names, files in os.walk(path):
        for name in [*names, *files]:
            full = os.path.join(directory, name)
            status = os.lstat(full)
            is_directory = stat.S_ISDIR(status.st_mode)
            opaque = is_directory and "user.overlay.opaque" in os.listxattr(full)
            links = 1 if is_directory else status.st_nlink
            found[os.path.relpath(full, path)] = (status.st_mode, status.st_uid, links, opaque)
    return found


@pytest.mark.userns
def test_tree_and_index_agree_on_random_layers(tmp_path: Path) -> None:
    def work() -> list[str]:
        differences = []
        for seed in range(500):
            raw = images.tar(_random_layer(Random(seed)))
            path = str(tmp_path / "tree")
            tree, index = _seen_in_tree(raw, path), _seen_in_index(raw, str(tmp_path / "index"))
            remove_tree(path)
            if tree != index:
                members = [(info.name, info.type, info.linkname) for info, _ in _random_layer(Random(seed))]
                differences.append(f"seed {seed}: {members}\n  tree  {tree}\n  index {index}")
        return differences

    differences = in_namespaces(work)
    assert not differences, "\n".join(differences[:5]) + f"\n{len(differences)} in all"
