"""Random names are valid names."""

from __future__ import annotations

from rootless.container import names
from rootless.container.containers import check_name


def test_random_names_are_valid_and_many() -> None:
    found = {names.random_name() for _ in range(300)}
    assert len(found) > 200
    assert all(check_name(name) == name and name.count("_") == 1 for name in found)
