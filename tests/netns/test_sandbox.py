"""What a confined process can still open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netns import sandbox, seccomp, syscalls
from tests.kit.userns import in_namespaces

pytestmark = pytest.mark.userns


def test_only_names_of_servers_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("secret")
    (tmp_path / "sockets").mkdir()
    (tmp_path / "sockets" / "api").write_text("")

    def attempt(action: str, path: str) -> str:
        try:
            if action == "remove":
                os.unlink(path)
            else:
                with open(path, action) as file:
                    file.read() if action == "r" else file.write("x")
        except OSError as error:
            return type(error).__name__
        return "fine"

    def work() -> dict[str, str]:
        kept = os.open(tmp_path / "mine", os.O_RDONLY)
        syscalls.set_no_new_privs()
        sandbox.enter([str(tmp_path / "sockets")])
        mine = str(tmp_path / "mine")
        return {
            "resolv.conf": attempt("r", "/etc/resolv.conf"),
            "read": attempt("r", mine),
            "write": attempt("w", mine),
            "new": attempt("w", str(tmp_path / "new")),
            "remove": attempt("remove", mine),
            "socket": attempt("remove", str(tmp_path / "sockets" / "api")),
            "kept": os.read(kept, 10).decode(),
        }

    assert in_namespaces(work) == {
        "resolv.conf": "fine",
        "read": "PermissionError",
        "write": "PermissionError",
        "new": "PermissionError",
        "remove": "PermissionError",
        "socket": "fine",
        "kept": "secret",
    }


def test_no_program_can_be_run_behind_the_filter() -> None:
    def work() -> str:
        syscalls.set_no_new_privs()
        program = seccomp.program(os.uname().machine)
        assert program is not None
        syscalls.seccomp_filter(program)
        try:
            os.execv("/bin/true", ["true"])
        except PermissionError:
            return "denied"

    assert in_namespaces(work) == "denied"
