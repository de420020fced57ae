"""Removal in two steps: out of sight at once, from the disk later."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rootless.image.store import Store
from rootless.image.workspace import sweep
from tests.rootless.image.test_lookup import put, store

__all__ = ["store"]


@pytest.fixture
def tasks() -> list[Callable[[], None]]:
    return []


def test_what_is_removed_is_out_of_sight_at_once(store: Store, tasks: list[Callable[[], None]]) -> None:
    _, image = put(store, "mine", "a")
    os.makedirs(store.tree_path(image.layers[0]) + "/etc")
    removed = store.remove("mine", later=tasks.append)
    assert removed.deleted == (image.id,) and removed.freed > image.size
    assert store.blobs.all() == [] and os.listdir(f"{store.path}/layers") == []
    assert sweep(store.tmp) == 0 and len(os.listdir(store.tmp)) > 1  # ours until we have done it
    for task in tasks:
        task()
    assert os.listdir(store.tmp) == ["lock"]


def test_a_killed_removal_is_finished_by_the_next_command(store: Store) -> None:
    put(store, "mine", "a")
    child = os.fork()
    if child == 0:
        store.remove("mine", later=lambda task: None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(os.listdir(store.tmp)) > 1
    store.prepare()
    assert os.listdir(store.tmp) == ["lock"]
    assert store.images() == []


def test_a_name_that_comes_back_meanwhile(store: Store, tasks: list[Callable[[], None]]) -> None:
    _, image = put(store, "mine", "a")
    store.remove("mine", later=tasks.append)
    put(store, "mine", "a")
    for task in tasks:
        task()
    assert store.resolve("mine").id == image.id
    assert Path(store.blobs.path(image.layers[0].blob)).stat().st_size == image.layers[0].size
