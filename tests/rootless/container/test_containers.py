"""Containers on disk: names, ids, states, and what a crash leaves."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from rootless.container import afterwards, lock
from rootless.container.containers import Container, Containers, check_name, new_id
from rootless.container.record import State
from rootless.errors import ContainerError, UsageError
from tests.rootless.container.conftest import Store


def test_create_find_forget(store: Store) -> None:
    container = store.create("web")
    containers = Containers(store.settings)
    assert container.record().name == "web" and container.state().status == "created"
    for text in ("web", container.id, container.id[:12], container.id[:3]):
        assert containers.find(text).id == container.id
    assert [each.id for each in containers] == [container.id]
    container.forget()
    assert list(containers) == [] and os.listdir(f"{store.settings.containers}/names") == []
    container.forget()  # may be repeated


def test_a_supervisor_forgets_its_life_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before that, it leaves a dead lock, by which the next command knows that there is something to clear."""
    container = store.create("web")
    os.makedirs(container.live)
    there = []
    monkeypatch.setattr(
        Container,
        "end_life",
        lambda self, *, mount: there.append((os.path.exists(self.path), os.path.exists(self.live))),
    )
    container.forget(mount="rootfs")
    assert there == [(False, True)]
    assert os.listdir(f"{store.settings.containers}/names") == []
    monkeypatch.undo()
    afterwards.run()
    container.forget_live()


def test_a_name_belongs_to_one(store: Store) -> None:
    first = store.create("web")
    with pytest.raises(ContainerError, match="already in use"):
        store.create("web")
    with pytest.raises(ContainerError, match=first.id):
        Containers(store.settings).check_name_is_free("web")
    assert [each.id for each in Containers(store.settings)] == [first.id], "the loser leaves nothing"


def test_the_name_of_a_container_that_is_gone_is_free(store: Store) -> None:
    """Its remover was killed between the directory and the name."""
    os.makedirs(f"{store.settings.containers}/names")
    os.symlink("0" * 64, f"{store.settings.containers}/names/web")
    Containers(store.settings).check_name_is_free("web")
    assert store.create("web").record().name == "web"


def test_beginnings_of_ids(store: Store) -> None:
    store.create("a", id="ab" + "0" * 62)
    store.create("b", id="ab" + "1" * 62)
    containers = Containers(store.settings)
    with pytest.raises(ContainerError, match="more than one"):
        containers.find("ab")
    assert containers.find("ab0").record().name == "a"
    store.create("ab0", id="cd" * 32)
    assert containers.find("ab0").id == "cd" * 32, "a name goes before the beginning of an id"


@pytest.mark.parametrize("text", ["", "nosuch", "..", "../names", "a/b", "g" * 64, "x" * 5000, "\0", "*", "\udcff"])
def test_what_is_not_there(store: Store, text: str) -> None:
    store.create("web")
    with pytest.raises(ContainerError, match="no such container"):
        Containers(store.settings).find(text)


def test_state_follows_the_lock(store: Store) -> None:
    """Whatever the file says: a container runs while its supervisor holds the lock."""
    container = store.create("web")
    os.makedirs(container.live)
    held = lock.hold(f"{container.live}/lock")
    assert held is not None
    container.write_live_state(State(status="running", pid=7, started_at="2024"))
    assert (container.state().status, container.state().pid) == ("running", 7)
    os.close(held)
    assert (container.state().status, container.state().pid, container.state().exit_code) == ("exited", 0, 137)
    container.write_last_state(State(status="exited", exit_code=3, started_at="2024"))
    assert container.state().exit_code == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"id": 7}', b"[" * 100_000])
def test_damaged_records_are_named_and_left_out(store: Store, content: bytes) -> None:
    container = store.create("web")
    Path(container.path, "container.json").write_bytes(content)
    with pytest.raises(ContainerError, match="damaged"):
        container.record()
    assert list(Containers(store.settings)) == []
    assert Containers(store.settings).find("web").id == container.id


def test_order_is_that_of_creation(store: Store) -> None:
    for name in ("c", "a", "b"):
        store.create(name)
    assert [each.record().name for each in Containers(store.settings)] == ["c", "a", "b"]


def test_ids_and_names() -> None:
    assert re.fullmatch("[0-9a-f]{64}", new_id()) and new_id() != new_id()
    for name in ("a", "A.b_c-d", "0", "x" * 255):
        assert check_name(name) == name
    for name in ("", ".a", "-a", "_a", "a b", "a/b", "a\n", "é", "x" * 256):
        with pytest.raises(UsageError):
            check_name(name)


def test_a_container_is_cheap(store: Store) -> None:
    assert repr(Container(store.settings, "ab" * 32)) == "<Container abababababab>"
