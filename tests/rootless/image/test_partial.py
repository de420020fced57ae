"""What an interrupted transfer leaves, and what the next one makes of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

from rootless.errors import ImageError
from rootless.image import partial
from rootless.image.access import Access
from rootless.image.model import Derive, Image
from rootless.image.pull import pull
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.reference import Reference
from tests.kit import images
from tests.kit.registry import Answer, FakeRegistry, Request, fake_registry

CHECKOUT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys, trio
from rootless.image.store import Store
from rootless.image.pull import pull
from rootless.oci.reference import Reference
trio.run(lambda: pull(Store(sys.argv[1]), Reference.parse(sys.argv[2])))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.prepare()
    return store


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    """One layer of two megabytes that do not compress."""
    layout = images.Layout(str(tmp_path / "layout"))
    content = random.Random(1).randbytes(2 << 20)
    layout.image("big", [images.pack(images.tar([images.file("big", content)]))])
    return layout


async def fetch(store: Store, fake: FakeRegistry) -> Image:
    access = Access(environ={"HOME": "/nonexistent"})
    return await pull(store, Reference.parse(f"{fake.address}/a:big"), access=access, derive=Derive.INDEX)


def left(store: Store) -> list[str]:
    return os.listdir(partial.directory(store.path))


def is_layer(fake: FakeRegistry, request: Request) -> bool:
    return "/blobs/" in request.path and len(fake.content(request.path.rpartition("/")[2]) or b"") > 1 << 20


def ranges(fake: FakeRegistry) -> list[str | None]:
    return [request.headers.get("range") for request in fake.requests if is_layer(fake, request)]


def test_a_killed_pull_is_taken_up(store: Store, layout: images.Layout) -> None:
    """kill -9 in the middle of a layer; the next command asks for the rest only."""
    stall = threading.Event()
    with fake_registry(layout.path) as fake:

        def rule(request: Request) -> Answer | None:
            if not is_layer(fake, request):
                return None
            honest = fake.honest(request)
            if request.headers.get("range"):
                stall.wait()  # the first answer breaks off, and the pull comes back for the rest: it waits
                return honest
            honest.cut = 1 << 20
            return honest

        fake.rules.append(rule)
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, store.path, f"{fake.address}/a:big"], cwd=CHECKOUT)
        path = partial.directory(store.path)
        while not os.path.exists(path) or sum(entry.stat().st_size for entry in os.scandir(path)) < 1 << 20:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stall.set()
        fake.rules.clear()
        fake.requests.clear()
        image = trio.run(fetch, store, fake)
        assert ranges(fake) == [f"bytes={1 << 20}-"]
    assert store.blobs.is_sound(image.layers[0].blob)
    assert left(store) == []


@pytest.mark.parametrize("kept", ["wrong", "complete and wrong", "complete", "too long"])
async def test_whatever_is_left_the_image_is_right(store: Store, layout: images.Layout, kept: str) -> None:
    with fake_registry(layout.path) as fake:
        [name] = [name for name in os.listdir(f"{layout.path}/blobs/sha256") if is_layer(fake, _asked(name))]
        blob = Path(f"{layout.path}/blobs/sha256/{name}").read_bytes()
        taken = partial.take(store.path, Digest.parse(f"sha256:{name}"))
        assert taken is not None
        content = {
            "wrong": blob[:5000] + b"wrong" + blob[5005:9000],
            "complete and wrong": bytes(len(blob)),
            "complete": blob,
            "too long": blob + b"more",
        }[kept]
        os.write(taken[0], content)
        os.close(taken[0])
        image = await fetch(store, fake)
        expected = {"wrong": ["bytes=9000-", None], "complete": [], "too long": [None], "complete and wrong": [None]}
        assert ranges(fake) == expected[kept]
    assert store.blobs.is_sound(image.layers[0].blob)
    assert left(store) == []


def _asked(name: str) -> Request:
    return Request("GET", f"/v2/a/blobs/sha256:{name}", {})


async def test_wrong_bytes_from_the_registry_are_not_kept(store: Store, layout: images.Layout) -> None:
    with fake_registry(layout.path) as fake:

        def rule(request: Request) -> Answer | None:
            if is_layer(fake, request):
                honest = fake.honest(request)
                return Answer(200, honest.body[:-100] + bytes(100), honest.headers)
            return None

        fake.rules.append(rule)
        with pytest.raises(ImageError):
            await fetch(store, fake)
    assert left(store) == []
    assert not store.images()


def test_one_process_has_it_at_a_time(store: Store) -> None:
    digest = Digest.of(b"x")
    first = partial.take(store.path, digest)
    assert first is not None and partial.take(store.path, digest) is None
    assert partial.sweep(store.path, age=0) == 0
    os.close(first[0])
    again = partial.take(store.path, digest)
    assert again is not None
    os.write(again[0], b"123")
    os.close(again[0])


def test_nobody_came_back(store: Store) -> None:
    taken = partial.take(store.path, Digest.of(b"x"))
    assert taken is not None
    os.write(taken[0], b"123")
    os.close(taken[0])
    assert partial.sweep(store.path) == 0
    os.utime(taken[1], (0, 0))
    assert partial.sweep(store.path) == 3
    assert left(store) == []
