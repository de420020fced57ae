"""Hard links before their target: in both forms of a layer alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fuse.index import Index
from rootless.errors import ImageError
from rootless.image.earlylinks import EarlyLinks, LinkToNothing
from rootless.image.extract import TreeExtractor
from rootless.image.index import LayerIndex
from rootless.image.removal import remove_tree
from rootless.oci.tar import TarEntry, TarParser
from tests.kit import images
from tests.kit.userns import in_namespaces

MEMBERS = [
    images.hardlink("a/second", "a/first"),
    images.hardlink("a/first", "z/target"),
    images.hardlink("replaced", "z/target"),
    images.file("replaced", b"a file of its own"),
    images.directory("z"),
    images.file("z/target", b"content", mode=0o640),
]


def feed(links: EarlyLinks, raw: bytes) -> None:
    for event in TarParser().feed(raw):
        assert isinstance(event, TarEntry)
        links.add(event)
    links.finish()


def test_the_index_has_them(tmp_path: Path) -> None:
    index = LayerIndex()
    feed(EarlyLinks(index.add), images.tar(MEMBERS))
    index.write(str(tmp_path / "index"))
    read = Index(str(tmp_path / "index"))
    inodes = {}

    def visit(number: int, prefix: str) -> None:
        for child in read.children(number):
            node = read.node(child)
            name = os.path.join(prefix, read.name(node).decode())
            inodes[name] = node.inode
            visit(child, name)

    visit(0, "")
    read.close()
    assert inodes["a/second"] == inodes["a/first"] == inodes["z/target"] != inodes["replaced"]


@pytest.mark.userns
def test_the_tree_has_them(tmp_path: Path) -> None:
    path = str(tmp_path / "tree")

    def work() -> Any:
        tree = TreeExtractor(path)
        try:
            links = EarlyLinks(tree.add)
            for event in TarParser(data=True).feed(images.tar(MEMBERS)):
                if isinstance(event, TarEntry):
                    links.add(event)
                else:
                    tree.write(event)
            links.finish()
            tree.finish()
            numbers = [os.stat(f"{path}/{name}").st_ino for name in ("a/second", "a/first", "z/target", "replaced")]
            with open(f"{path}/a/second") as second, open(f"{path}/replaced") as replaced:
                return numbers, second.read(), replaced.read()
        finally:
            tree.close()
            remove_tree(path)

    numbers, second, replaced = in_namespaces(work)
    assert len(set(numbers[:3])) == 1 and numbers[3] != numbers[0]
    assert (second, replaced) == ("content", "a file of its own")


def test_what_never_comes_is_named() -> None:
    index = LayerIndex()
    with pytest.raises(LinkToNothing, match="leads to b'nowhere', which is not there"):
        feed(EarlyLinks(index.add), images.tar([images.hardlink("a", "nowhere"), images.hardlink("b", "a")]))


def test_links_in_a_circle_are_refused() -> None:
    index = LayerIndex()
    with pytest.raises(LinkToNothing):
        feed(EarlyLinks(index.add), images.tar([images.hardlink("a", "b"), images.hardlink("b", "a")]))


def test_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.image.earlylinks.EARLY_MAX", 10)
    index = LayerIndex()
    with pytest.raises(ImageError):
        feed(EarlyLinks(index.add), images.tar([images.hardlink(f"l{number}", "later") for number in range(11)]))
