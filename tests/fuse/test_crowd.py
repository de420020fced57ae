"""Many layers: the shortcut finds what asking every layer finds, sub-stacks mount, and descriptors suffice."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.crowd import Crowds
from fuse.entry import Entry
from fuse.frames import FrameCache
from fuse.layers import Layer
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryLayer
from fuse.merge import merge_name, merge_names
from fuse.view import View
from tests.fuse.archives import archive, directory, regular, whiteout

names = st.sampled_from([b"a", b"b", b"c", b"d"])
kinds = st.sampled_from(["file", "whiteout", "directory", "opaque"])


def entry(name: bytes, kind: str) -> Entry:
    path = f"d/{name.decode()}"
    if kind == "whiteout":
        return whiteout(path)
    return regular(path) if kind == "file" else directory(path, opaque=kind == "opaque")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(stack=st.lists(st.dictionaries(names, kinds, max_size=3), min_size=1, max_size=9), limit=st.integers(0, 12))
def test_it_finds_what_every_layer_would_say(stack: list[dict[bytes, str]], limit: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-crowd-") as folder:
        layers: list[Layer] = [
            archive(folder, str(at), [directory("d"), *(entry(name, kind) for name, kind in items.items())])
            for at, items in enumerate(stack)
        ]
        place = merge_name([layer.root() for layer in layers], b"d")
        crowds = Crowds(limit)
        for name in (b"a", b"b", b"c", b"d", b"none", b"a"):
            assert merge_name(crowds.narrowed(place, name), name) == merge_name(place, name)
            assert merge_name(place, name) == merge_names(place).get(name, ())
        for layer in layers:
            layer.close()


def test_the_names_kept_are_bounded(tmp_path: Path) -> None:
    layer = archive(str(tmp_path), "low", [directory(f"d{at}/{name}") for at in range(10) for name in "abc"])
    crowds = Crowds(8)
    stacks = [merge_name([layer.root()], b"d%d" % at) for at in range(10)]
    for stack in stacks:
        assert crowds.narrowed(stack, b"b") == stack
        assert crowds.narrowed(stack, b"z") == ()
        assert crowds._held <= 8
    layer.close()


@pytest.mark.parametrize("kind", ["archives", "directories"])
def test_three_hundred_layers_and_any_part_of_them(tmp_path: Path, kind: str) -> None:
    count = 300
    for at in range(count):
        os.makedirs(tmp_path / str(at) / "d")
        (tmp_path / str(at) / "d" / "both").write_text(str(at))
        (tmp_path / str(at) / "d" / f"only{at}").write_text(str(at))
        if kind == "archives":
            content = str(at).encode()
            items = [(regular("d/both"), content), (regular(f"d/only{at}"), content)]
            archive(str(tmp_path), f"a{at}", items).close()
    cache = FrameCache()

    def layer(at: int) -> Layer:
        if kind == "archives":
            return ArchiveLayer(str(tmp_path / f"a{at}.index"), str(tmp_path / f"a{at}.frames"), cache=cache)
        return DirectoryLayer(str(tmp_path / str(at)))

    before = len(os.listdir("/proc/self/fd"))
    for part in (range(count), range(7, 8), range(20), range(100, 180)):
        view = View([layer(at) for at in reversed(part)])
        d = view.directory(view.lookup(view.root, b"d").number)
        for name, content in ((b"both", part[-1]), (b"only%d" % part[0], part[0]), (b"only%d" % part[-1], part[-1])):
            assert view.read(view.lookup(d, name), 0, 10) == str(content).encode()
        with pytest.raises(FileNotFoundError):
            view.lookup(d, b"only%d" % (part[-1] + 1))
        assert len(view.listing(d)) == len(part) + 1
        view.close()
    assert len(os.listdir("/proc/self/fd")) == before
