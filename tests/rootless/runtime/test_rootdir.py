"""Paths inside a root filesystem never lead out of it, whatever its links say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootless.runtime.rootdir import RootDir, normalize


def test_makes_directories_and_files(tmp_path: Path) -> None:
    with RootDir.at(str(tmp_path)) as root:
        os.close(root.directory("/a/b/c"))
        os.close(root.file("a/d/file"))
        os.close(root.directory("/a/b/c"))
        assert root.find("/no/such") is None
        assert root.find("/a/d/file/below") is None
    assert (tmp_path / "a/b/c").is_dir() and (tmp_path / "a/d/file").is_file()


def test_dangling_links_are_followed_inside(tmp_path: Path) -> None:
    root_path, outside = tmp_path / "root", tmp_path / "outside"
    root_path.mkdir()
    (root_path / "var").mkdir()
    (root_path / "var/run").symlink_to("/run")
    (root_path / "up").symlink_to("../../../outside")
    (root_path / "abs").symlink_to(str(outside))
    with RootDir.at(str(root_path)) as root:
        for path in ("/var/run/secrets", "/up/x", "/abs/y", "/../../z"):
            os.close(root.directory(path))
    assert (root_path / "run/secrets").is_dir()
    assert (root_path / "outside/x").is_dir()
    assert (root_path / str(outside).lstrip("/") / "y").is_dir()
    assert (root_path / "z").is_dir()
    assert not outside.exists()


def test_loops_and_magic_links(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with RootDir.at(str(tmp_path)) as root:
        for path in ("/loop/x", "/one"):
            with pytest.raises(OSError, match="symbolic links"):
                root.directory(path)
    with RootDir.at("/") as root, pytest.raises(OSError, match="symbolic links"):
        root.open("/proc/self/cwd/x")


def test_normalize() -> None:
    assert [normalize(path) for path in ("", "/", "a/../b", "//x//y/", "/../..")] == ["/", "/", "/b", "/x/y", "/"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a/b", "c"]),
            st.sampled_from(["/", "..", "../..", "a", "b/..", "/a", "/tmp", "../../etc", "c", "/b/c/../.."]),
        ),
        max_size=5,
    ),
    st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=6),
)
def test_whatever_the_links_nothing_is_made_outside(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]], parts: list[str]
) -> None:
    base = tmp_path_factory.mktemp("base")
    root_path = base / "x/root"
    root_path.mkdir(parents=True)
    for name, target in links:
        place = root_path / name
        if not place.is_symlink() and not place.exists() and place.parent.is_dir() and not place.parent.is_symlink():
            place.symlink_to(target)
    with RootDir.at(str(root_path)) as root:
        try:
            fd = root.directory("/".join(parts))
        except OSError:
            pass
        else:
            made = os.readlink(f"/proc/self/fd/{fd}")
            os.close(fd)
            assert made == str(root_path) or made.startswith(f"{root_path}/")
    assert [path.name for path in base.iterdir()] == ["x"]
    assert [path.name for path in (base / "x").iterdir()] == ["root"]
