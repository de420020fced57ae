"""--cap-add and --cap-drop as Podman understands them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.runtime import capabilities
from rootless.runtime.capabilities import DEFAULT, NAMES, for_user, mask, select


def test_the_default_set_is_podmans() -> None:
    assert mask(select()) == 0x800405FB


def test_add_and_drop() -> None:
    assert "CAP_NET_RAW" in select(["net_raw"])
    assert "CAP_CHOWN" not in select([], ["CAP_chown"])
    assert select(["NET_ADMIN", "sys_time"], ["all"]) == ("CAP_NET_ADMIN", "CAP_SYS_TIME")
    assert set(select(["ALL"], ["chown"])) == set(NAMES) - {"CAP_CHOWN"}
    assert set(select(["ALL"], last=36)) == set(NAMES[:37])


@pytest.mark.parametrize(
    ("add", "drop"), [(["ALL"], ["ALL"]), (["chown"], ["CHOWN"]), (["nosuch"], []), ([], ["CAP_"])]
)
def test_contradictions(add: list[str], drop: list[str]) -> None:
    with pytest.raises(UsageError):
        select(add, drop)


def test_users_keep_only_what_was_added() -> None:
    sets = for_user(select(["net_raw"]), root=False, added=("CAP_NET_RAW",))
    assert sets.ambient == sets.permitted == sets.effective == sets.inheritable == ("CAP_NET_RAW",)
    assert set(sets.bounding) == {*DEFAULT, "CAP_NET_RAW"}
    root = for_user(DEFAULT, root=True)
    assert root.permitted == root.effective == root.bounding == DEFAULT and not root.ambient + root.inheritable


def test_unknown_names_have_no_bit() -> None:
    assert mask(["CAP_CHOWN", "CAP_OF_TOMORROW"]) == 1


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_any_selection(add: set[str], drop: set[str]) -> None:
    if add & drop:
        with pytest.raises(UsageError):
            select(add, drop)
        return
    chosen = set(select(add, drop))
    assert chosen == (set(DEFAULT) | add) - drop
    assert capabilities.mask(chosen).bit_count() == len(chosen)
