"""What short names may mean, and how a choice is kept."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from rootless.errors import UsageError
from rootless.image import registriesconf
from rootless.image.locations import Locations
from rootless.image.registriesconf import Alias
from rootless.image.shortnames import aliases_path, ask_user, is_short, local_names, record, recorded_aliases, split
from rootless.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64


def load(text: str, **recorded: str) -> Locations:
    conf = registriesconf.parse(text.encode(), "/etc/x.conf")
    return Locations(conf, {name: Alias(value, "cache") for name, value in recorded.items()})


def names(locations: Locations, text: str) -> list[str]:
    return [str(reference) for reference in locations.names(text)]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("a", True),
        ("a:1", True),
        ("a/b", True),
        (f"a@{DIGEST}", True),
        ("a.example/b", False),
        ("a:5000/b", False),
        ("localhost/b", False),
        ("docker.io/a", False),
    ],
)
def test_what_is_short(text: str, short: bool) -> None:
    assert is_short(text) is short


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a", ("a", "")), ("a/b:1", ("a/b", ":1")), (f"a@{DIGEST}", ("a", f"@{DIGEST}")), ("a:1@x", ("a", ":1@x"))],
)
def test_split(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts


def test_without_a_list_it_is_docker_io() -> None:
    for locations in (Locations(), load(""), load("unqualified-search-registries = []")):
        assert names(locations, "busybox") == ["docker.io/library/busybox:latest"]
        assert names(locations, "quay.io/a/b:1") == ["quay.io/a/b:1"]


def test_aliases() -> None:
    text = 'unqualified-search-registries = ["s.example"]\n[aliases]\nfedora = "f.example/fedora"\ngone = ""'
    assert names(load(text), "fedora") == ["f.example/fedora:latest"]
    assert names(load(text), "fedora:38") == ["f.example/fedora:38"]
    assert names(load(text), f"fedora@{DIGEST}") == [f"f.example/fedora@{DIGEST}"]
    assert names(load(text), "gone") == ["s.example/gone:latest"]
    assert names(load(text), "team/fedora") == ["s.example/team/fedora:latest"]
    assert names(load(text, fedora="mine.example/f"), "fedora:1") == ["mine.example/f:1"]
    assert names(load(text, fedora=""), "fedora") == ["s.example/fedora:latest"]  # taken away


def test_the_search_list_and_its_modes() -> None:
    text = 'unqualified-search-registries = ["a.example", "docker.io"]\n'
    both = ["a.example/x:latest", "docker.io/library/x:latest"]
    assert names(load(text), "x") == both
    assert names(load(text + 'short-name-mode = "disabled"'), "x") == both
    with pytest.raises(UsageError, match="somebody at a terminal"):
        load(text + 'short-name-mode = "enforcing"').names("x")
    one = 'unqualified-search-registries = ["a.example"]\nshort-name-mode = "enforcing"'
    assert names(load(one), "x") == both[:1]
    for mode in ("enforcing", "permissive"):
        chosen = load(text + f'short-name-mode = "{mode}"').names("x", lambda found: found[1])
        assert [str(reference) for reference in chosen] == both[1:]
    disabled = load(text + 'short-name-mode = "disabled"').names("x", lambda found: found[1])
    assert len(disabled) == 2
    with pytest.raises(UsageError, match="malformed"):
        load(text).names("UPPER")


def test_a_choice_is_kept(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    user = tmp_path / ".config/containers/registries.conf"
    user.parent.mkdir(parents=True)
    user.write_text('unqualified-search-registries = ["a.example", "b.example"]\n')
    locations = Locations.load(environ)
    (chosen,) = locations.names("x:1", lambda found: found[1])
    assert not recorded_aliases(environ)  # not before it was pulled
    locations.pulled("x:1", chosen)
    assert names(Locations.load(environ), "x:2") == ["b.example/x:2"]
    record("y", Reference.parse("c.example/why:3"), environ)
    assert Path(aliases_path(environ)).read_text() == '[aliases]\n  "x" = "b.example/x"\n  "y" = "c.example/why"\n'
    assert local_names("x", environ)[0] == Reference.parse("b.example/x")
    undecided = Locations.load(environ)
    assert len(undecided.names("z")) == 2
    undecided.pulled("z", Reference.parse("a.example/z"))  # nobody chose
    assert "z" not in recorded_aliases(environ)


def test_what_a_name_means_in_the_store(tmp_path: Path) -> None:
    environ, system = {"HOME": str(tmp_path / "home")}, tmp_path / "etc"

    def found(text: str) -> list[str]:
        return [str(reference) for reference in local_names(text, environ, str(system))]

    assert found("x") == ["localhost/x:latest", "docker.io/library/x:latest"]
    assert found("a.example/x") == ["a.example/x:latest"]
    system.mkdir()
    (system / "registries.conf").write_text(
        '# unqualified-search-registries = ["c.example"]\n[aliases]\n"x" = "a.example/x"'
    )
    assert found("x") == ["a.example/x:latest", "localhost/x:latest", "docker.io/library/x:latest"]
    assert found("y/x") == ["localhost/y/x:latest", "docker.io/y/x:latest"]
    (system / "registries.conf").write_text('unqualified-search-registries = ["c.example"]')
    assert found("x") == ["localhost/x:latest", "c.example/x:latest"]


def test_asking() -> None:
    found = [Reference.parse("a.example/x"), Reference.parse("b.example/x")]
    screen = io.StringIO()
    assert ask_user(found, io.StringIO("what\n3\n2\n"), screen) == found[1]
    assert "2  b.example/x:latest" in screen.getvalue() and screen.getvalue().count("Which one") == 3
    for answers in ("", "\n\n\n1\n"):
        with pytest.raises(UsageError, match="no image was chosen"):
            ask_user(found, io.StringIO(answers), io.StringIO())
