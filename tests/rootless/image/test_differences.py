"""What layers change, and what images differ in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from fuse.changes import changes
from rootless.image.derive import ensure
from rootless.image.differences import Difference, Summary, differences, find, layer_changes, summarize
from rootless.image.model import Derive, Image
from rootless.image.store import Store
from rootless.image.trees import open_trees
from rootless.oci.digest import Digest
from rootless.oci.documents import Document
from rootless.oci.reference import Reference
from tests.kit import images


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def made(store: Store, name: str, *archives: bytes) -> Image:
    layout = images.Layout(f"{store.path}-{name}")
    layers = [images.pack(raw) for raw in archives]
    descriptor = layout.image(name, layers)
    store.prepare()
    for blob in os.listdir(f"{layout.path}/blobs/sha256"):
        store.blobs.put(Path(layout.path, "blobs/sha256", blob).read_bytes(), Digest("sha256", blob))
    raw = store.blobs.read(Digest.parse(descriptor["digest"]), 1 << 20)
    image = store.add(Document(descriptor["mediaType"], raw), reference=Reference.parse(name))
    assert image is not None
    trio.run(ensure, store, image, Derive.INDEX)
    return image


def letters(found: Iterable[Difference]) -> list[str]:
    return [f"{one.kind.value} {one.path.decode()}" for one in found]


def test_the_demo_image(store: Store) -> None:
    image = made(store, "demo", *images.demo_layers())
    with open_trees(store, image.layers[::-1]) as trees:
        assert letters(layer_changes(trees)) == [
            "C etc",
            "A etc/motd",
            "C srv",
            "C srv/hidden",
            "A srv/hidden/new",
            "D srv/hidden/old",
            "D srv/removed",
        ]
        assert summarize(trees) == Summary(2, 0, 2, len(b"new\nthree layers\n"))
        middle = summarize(trees[1:])
        assert (middle.added, middle.changed, middle.deleted) == (5, 1, 0)  # srv itself gets another owner
        assert find(trees, b"srv/hidden/old") == () and find(trees, b"srv/removed/x") == ()
        assert find(trees, b"srv/kept")[0].layer is trees[1] and find(trees, b"")[0].layer is trees[0]


def test_hard_links_count_once(store: Store) -> None:
    image = made(store, "links", images.tar([images.file("a", b"12345"), images.hardlink("b", "a")]))
    with open_trees(store, image.layers[::-1]) as trees:
        assert summarize(trees) == Summary(2, 0, 0, 5)


def test_as_the_overlay_sees_it(store: Store) -> None:
    """The same paths as `fuse.changes`, but for directories and files that a layer repeats unchanged."""
    again = [images.directory("bin"), images.file("etc/passwd", b"other"), images.symlink("bin/ls", "x")]
    image = made(store, "demo", *images.demo_layers(), images.tar(again))
    with open_trees(store, image.layers[::-1]) as trees:
        for top in range(len(trees)):
            plain = [f"{one.kind.value} {one.path.decode()}" for one in changes(trees[top], trees[top + 1 :])]
            assert letters(layer_changes(trees[top:])) == plain


def test_a_file_for_a_directory_and_back(store: Store) -> None:
    below = images.tar([images.directory("d"), images.file("d/x"), images.file("f")])
    above = images.tar([images.file("d"), images.directory("f"), images.file("f/y")])
    image = made(store, "turned", below, above)
    with open_trees(store, image.layers[::-1]) as trees:
        assert letters(layer_changes(trees)) == ["C d", "C f", "A f/y"]


def test_what_is_repeated_is_no_change(store: Store) -> None:
    layer = images.tar([images.directory("d"), images.file("d/x", b"x")])
    image = made(store, "same", layer, layer + b"\0" * 512)
    with open_trees(store, image.layers[::-1]) as trees:
        assert letters(layer_changes(trees)) == []


def test_two_images(store: Store) -> None:
    one = made(store, "one", images.tar([images.file("both"), images.file("mine"), images.file("size", b"1")]))
    other = made(store, "other", images.tar([images.file("both"), images.file("size", b"12"), images.file("yours")]))
    with open_trees(store, one.layers[::-1]) as mine, open_trees(store, other.layers[::-1]) as yours:
        assert letters(differences(mine, yours)) == ["A mine", "C size", "D yours"]
        assert letters(differences(yours, mine)) == ["D mine", "C size", "A yours"]
        assert letters(differences(mine, mine)) == []
