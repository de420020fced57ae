"""Tiers, leak checks, and the fixtures that every room uses.

A test names what it needs by a marker (userns, nosub, fuse, tun, registry, podman). Where this machine lacks it, the
test is skipped and the reason names what is missing; in CI (the variable CI is set) that is a failure instead. Every
test must leave this process as it found it: no descriptor, child or mount more (`tests/kit/leaks.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.kit import leaks, needs
from tests.kit.command import Rcontain, install_launchers

# Set by contrib/test: run only what is marked with this tier, as the user that the tier asks for.
ONLY_TIER = "RCONTAIN_TEST_ONLY"


# A slow machine is no bug, and the checkout may belong to somebody else.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.expanduser("~/.cache/rcontain-test/hypothesis"))
hypothesis.settings.register_profile("rcontain", deadline=None, print_blob=True)
hypothesis.settings.load_profile("rcontain")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nosub: needs a user without subordinate ids (contrib/test brings one)")
    config.addinivalue_line("markers", "keeps(reason): leaves descriptors behind on purpose; no leak check")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`nosub` tests need another user than all others, so one run has either the ones or the others."""
    only = os.environ.get(ONLY_TIER)
    if only is None and needs.missing("nosub") is None:
        return  # this user has no subordinate ids: everything is tried, and the rest is skipped for its missing needs
    wanted = [item for item in items if (item.get_closest_marker("nosub") is not None) == (only == "nosub")]
    left_out = [item for item in items if item not in set(wanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = wanted


def pytest_runtest_setup(item: pytest.Item) -> None:
    for tier in needs.TIERS:
        if item.get_closest_marker(tier) is None:
            continue
        reason = needs.missing(tier)
        if reason is None:
            continue
        if os.environ.get("CI"):
            pytest.fail(f"in CI every tier runs, and the tier {tier} needs {reason}", pytrace=False)
        pytest.skip(f"the tier {tier} needs {reason}")


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a descriptor, a child process or a mount in this process."""
    if request.node.get_closest_marker("keeps") is not None:
        yield
        return
    before = leaks.holdings()
    yield
    left = leaks.leaked(before)
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `rcontain` command of this checkout, as contrib/quickstart installs it."""
    return install_launchers(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def rcontain(launcher: Path) -> Iterator[Rcontain]:
    """The command with directories of its own; the test fails if a process or a mount outlives it."""
    command = Rcontain(launcher)
    yield command
    left = command.finish()
    if left:
        pytest.fail("rcontain left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="module")
def shared_rcontain(launcher: Path) -> Iterator[Rcontain]:
    """As `rcontain`, for the tests of one module together: pulls and the engine's start are paid once."""
    command = Rcontain(launcher)
    yield command
    left = command.finish()
    if left:
        pytest.fail("rcontain left behind:\n  " + "\n  ".join(left), pytrace=False)
