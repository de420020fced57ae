"""Where things are, from the environment."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from rootless.errors import HostError, UsageError
from rootless.settings import from_environment, runtime_directory


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), **more}


def test_defaults(tmp_path: Path) -> None:
    settings = from_environment(environment(tmp_path))
    assert settings.data == f"{tmp_path}/.local/share/rcontain" and settings.runtime == f"{tmp_path}/rcontain"
    assert settings.storage_driver == "auto" and settings.containers.startswith(settings.data)
    assert os.stat(settings.runtime).st_mode & 0o777 == 0o700


def test_a_relative_data_home_is_ignored(tmp_path: Path) -> None:
    assert from_environment(environment(tmp_path, XDG_DATA_HOME="x")).data == f"{tmp_path}/.local/share/rcontain"
    assert from_environment(environment(tmp_path, XDG_DATA_HOME="/x")).data == "/x/rcontain"


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_the_password_file_says_where_it_is(home: str | None, tmp_path: Path) -> None:
    given = {"XDG_RUNTIME_DIR": str(tmp_path), **({} if home is None else {"HOME": home})}
    assert from_environment(given).home == pwd.getpwuid(os.getuid()).pw_dir
    with pytest.raises(UsageError, match="HOME"):
        from_environment({**given, "RCONTAIN_UID": "4294967000"})


def test_drivers(tmp_path: Path) -> None:
    assert from_environment(environment(tmp_path, RCONTAIN_STORAGE_DRIVER="fuse")).storage_driver == "fuse"
    with pytest.raises(UsageError, match="nonsense"):
        from_environment(environment(tmp_path, RCONTAIN_STORAGE_DRIVER="nonsense"))


def test_a_runtime_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rcontain").mkdir(mode=0o755)
    with pytest.raises(HostError, match="only you"):
        runtime_directory(environment(tmp_path))


def test_a_runtime_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "rcontain").symlink_to("elsewhere")
    with pytest.raises(HostError):
        runtime_directory(environment(tmp_path))
