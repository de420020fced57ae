"""registries.conf end to end: mirrors, short names, blocked registries, and Podman with the same file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.terminal import Terminal
from tests.kit.command import Rcontain
from tests.kit.images import Layout, file, pack, push, tar
from tests.kit.podman import podman
from tests.kit.registry import registry

pytestmark = [pytest.mark.registry, pytest.mark.userns]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two registries: the first has hub/mine, the second mine and there/mine."""
    directories = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    layout = Layout(str(directories[0] / "layout"))
    layout.image("mine", [pack(tar([file("a", b"a")]))])
    with registry(str(directories[0])) as first, registry(str(directories[1])) as second:
        for address, name in ((first, "hub/mine"), (second, "mine"), (second, "there/mine")):
            push(layout.path, "mine", address, f"{name}:1")
        yield first, second


def configure(command: Rcontain, text: str) -> None:
    path = command.home / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(command: Rcontain) -> list[str]:
    return command.text("images", "--format", "{{.Repository}}:{{.Tag}}").split()


def both(command: Rcontain, name: str) -> bool:
    """Whether we can pull it; Podman can as well, or cannot either."""
    ours = command("pull", "-q", name, check=False)
    theirs = podman("--storage-driver", "vfs", "pull", "-q", name, environment=command.environment)
    assert (ours.returncode == 0) is (theirs.returncode == 0), (ours.stderr, theirs.stderr)
    return ours.returncode == 0


def test_a_mirror_has_it(rcontain: Rcontain, two: tuple[str, str]) -> None:
    first, second = two
    configure(
        rcontain,
        f"""
        [[registry]]
        prefix = "upstream.invalid/lib"
        location = "upstream.invalid/lib"
        [[registry.mirror]]
        location = "{second}/nothing"
        insecure = true
        [[registry.mirror]]
        location = "{first}/hub"
        insecure = true
        """,
    )
    assert both(rcontain, "upstream.invalid/lib/mine:1")
    assert names(rcontain) == ["upstream.invalid/lib/mine:1"]
    done = rcontain("pull", "upstream.invalid/lib/absent:1", check=False)
    said = done.stderr.decode()
    assert done.returncode == 125 and first in said and second in said and "upstream.invalid" in said


def test_another_location(rcontain: Rcontain, two: tuple[str, str]) -> None:
    place = f'[[registry]]\nprefix = "*.example.invalid"\nlocation = "{two[1]}/there"\ninsecure = true\n'
    configure(rcontain, place)
    assert both(rcontain, "a.example.invalid/mine:1")
    assert names(rcontain) == ["a.example.invalid/mine:1"]


def test_blocked(rcontain: Rcontain, two: tuple[str, str]) -> None:
    configure(rcontain, f'[[registry]]\nlocation = "{two[1]}"\nblocked = true\n')
    assert not both(rcontain, f"{two[1]}/mine:1")
    done = rcontain("run", "--rm", f"{two[1]}/mine:1", "true", check=False)
    assert b"is blocked in" in done.stderr and b"registries.conf" in done.stderr
    assert not both(rcontain, f"{two[1]}/there/mine:1")


@pytest.mark.parametrize("mode", ["permissive", "disabled", "enforcing"])
def test_the_search_list(rcontain: Rcontain, two: tuple[str, str], mode: str) -> None:
    first, second = two
    insecure = "".join(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n' for address in two)
    configure(
        rcontain, f'unqualified-search-registries = ["{first}", "{second}"]\nshort-name-mode = "{mode}"\n{insecure}'
    )
    assert both(rcontain, "mine:1") is (mode != "enforcing")
    assert names(rcontain) == ([f"{second}/mine:1"] if mode != "enforcing" else [])


def test_an_alias(rcontain: Rcontain, two: tuple[str, str]) -> None:
    address = two[0]
    configure(
        rcontain, f'[aliases]\n"short" = "{address}/hub/mine"\n[[registry]]\nlocation = "{address}"\ninsecure = true\n'
    )
    assert both(rcontain, "short:1")
    assert names(rcontain) == [f"{address}/hub/mine:1"]


def test_a_choice_at_a_terminal(rcontain: Rcontain, two: tuple[str, str]) -> None:
    first, second = two
    configure(rcontain, f'unqualified-search-registries = ["{first}", "{second}"]\n')
    with Terminal(rcontain.words("pull", "mine:1"), rcontain.environment, str(rcontain.home)) as terminal:
        terminal.expect("Which one [1-2]?")
        terminal.type("2\n")
        assert terminal.wait() == 0
    recorded = Path(rcontain.environment["XDG_CACHE_HOME"]) / "containers/short-name-aliases.conf"
    assert f'"mine" = "{second}/mine"' in recorded.read_text()
    assert rcontain("pull", "-q", "mine:1").returncode == 0  # nobody is asked again
