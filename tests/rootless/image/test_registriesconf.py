"""registries.conf: which files count, how they merge, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.image.registriesconf import MirrorUse, RegistriesConf, ShortNameMode, parse, paths


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def search(host: str) -> str:
    return f'unqualified-search-registries = ["{host}"]\n'


def test_which_files_count(tmp_path: Path) -> None:
    home, system = tmp_path / "home", tmp_path / "etc"
    environ = {"HOME": str(home)}
    assert RegistriesConf.load(environ, str(system)) == RegistriesConf()
    put(system / "registries.conf", search("a.example"))
    assert RegistriesConf.load(environ, str(system)).search == ("a.example",)
    put(system / "registries.conf.d/20.conf", search("c.example"))
    put(system / "registries.conf.d/10.conf", search("b.example"))
    put(system / "registries.conf.d/30.conf.off", "nonsense")
    (system / "registries.conf.d/40.conf").mkdir()
    assert RegistriesConf.load(environ, str(system)).search == ("c.example",)
    user = put(home / ".config/containers/registries.conf.d/05.conf", search("d.example"))
    found = RegistriesConf.load(environ, str(system))
    assert (found.search, found.search_origin) == (("d.example",), str(user))
    put(home / ".config/containers/registries.conf", search("e.example"))
    user.unlink()
    assert RegistriesConf.load(environ, str(system)).search == ("e.example",)  # and nothing of the machine's
    environ["CONTAINERS_REGISTRIES_CONF"] = str(tmp_path / "own.conf")
    with pytest.raises(UsageError, match=r"own\.conf does not exist"):
        RegistriesConf.load(environ, str(system))
    put(tmp_path / "own.conf", search("f.example"))
    assert RegistriesConf.load(environ, str(system)).search == ("c.example",)
    assert paths(environ, str(system))[0] == str(tmp_path / "own.conf")


def test_merging() -> None:
    first = parse(
        b"""
        unqualified-search-registries = ["a.example"]
        short-name-mode = "enforcing"
        credential-helpers = ["pass"]
        [aliases]
        one = "a.example/one"
        two = "a.example/two"
        [[registry]]
        location = "a.example"
        insecure = true
        [[registry.mirror]]
        location = "m.example"
        """,
        "first",
    )
    second = parse(
        b"""
        unqualified-search-registries = []
        [aliases]
        two = ""
        three = "a.example/three"
        [[registry]]
        prefix = "a.example"
        location = "b.example/x/"
        """,
        "second",
    )
    merged = first.updated(second)
    assert merged.search == () and merged.search_origin == "second"
    assert merged.mode is ShortNameMode.ENFORCING and merged.credential_helpers == ("pass",)
    assert {name: alias.name for name, alias in merged.aliases.items()} == {
        "one": "a.example/one",
        "two": "",
        "three": "a.example/three",
    }
    table = merged.registries["a.example"]
    assert (table.location, table.insecure, table.mirrors) == ("b.example/x", False, ())


def test_mirrors() -> None:
    conf = parse(
        b"""
        [[registry]]
        location = "a.example"
        mirror-by-digest-only = true
        mirror = [{location = "m.example"}]
        [[registry]]
        location = "b.example"
        mirror = [{location = "m.example", pull-from-mirror = "tag-only", insecure = true}, {location = "n.example"}]
        """,
        "x",
    )
    assert [mirror.use for mirror in conf.registries["a.example"].mirrors] == [MirrorUse.DIGEST_ONLY]
    mirrors = conf.registries["b.example"].mirrors
    assert [(mirror.use, mirror.insecure) for mirror in mirrors] == [(MirrorUse.TAG_ONLY, True), (MirrorUse.ALL, False)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[registries.search]\nregistries = ['a']", "version 1"),
        ("x = ", "Invalid value"),
        ("a = 1\na = 2", "overwrite"),
        ("unqualified-search-registries = 'a'", "not an array of strings"),
        ("unqualified-search-registries = ['a/b']", "not a host"),
        ("unqualified-search-registries = ['https://a']", "has a scheme"),
        ("short-name-mode = 'ask'", "short-name-mode"),
        ("[[registry]]\nblocked = true", "neither prefix nor location"),
        ("[[registry]]\nprefix = 'a.example'", "no location"),
        ("[[registry]]\nprefix = '*.a.example/b'", "wildcard"),
        ("[[registry]]\nlocation = 'http://a'", "has a scheme"),
        ("[[registry]]\nlocation = 'a'\nblocked = 'yes'", "neither true nor false"),
        ("[[registry]]\nlocation = 'a'\npull-from-mirror = 'all'", "belongs to a mirror"),
        ("[[registry]]\nlocation = 'a'\nmirror = [{insecure = true}]", "no location"),
        ("[[registry]]\nlocation = 'a'\nmirror = [{location = 'm', pull-from-mirror = 'x'}]", "not all"),
        (
            "[[registry]]\nlocation = 'a'\nmirror-by-digest-only = true\n"
            "mirror = [{location = 'm', pull-from-mirror = 'all'}]",
            "mirror-by-digest-only and",
        ),
        ("[[registry]]\nlocation = 'a'\n[[registry]]\nprefix = 'b'\nlocation = 'a'\nblocked = true", "conflicting"),
        ("registry = 1", "array of tables"),
        ("aliases = 1", "not a table"),
        ("[aliases]\n'a:1' = 'b.example/a'", "short name"),
        ("[aliases]\n'a.example/b' = 'b.example/a'", "short name"),
        ("[aliases]\na = 'b'", "stand for"),
        ("[aliases]\na = 'b.example/a:1'", "stand for"),
        ("[aliases]\na = 1", "not a string"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse(text.encode(), "/some/file")
    assert "/some/file" in caught.value.message


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    try:
        parse(raw, "x")
    except UsageError:
        pass


def test_the_machines_own_files() -> None:
    conf = RegistriesConf.load({"HOME": "/nowhere"})
    assert conf.aliases["fedora"].name == "registry.fedoraproject.org/fedora"  # Debian's shortnames.conf
    assert not conf.search
