"""Podman with `rcontain-fuse-overlay` as its mount program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.server import Adapter

pytestmark = [pytest.mark.podman, pytest.mark.userns, pytest.mark.fuse]

CHECKOUT = Path(__file__).resolve().parent.parent.parent
ACCEPT_ANYTHING = {"default": [{"type": "insecureAcceptAnything"}]}


class Podman:
    """The command, with storage and a runtime directory of its own."""

    def __init__(self, folder: str, adapter: Adapter) -> None:
        self.folder = folder
        program = self._file(
            "mount-program",
            f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m fuse -o adapter={adapter} "$@"\n',
        )
        os.chmod(program, 0o755)
        os.mkdir(f"{folder}/runtime", 0o700)
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": f"{folder}/runtime",
            "HOME": folder,
            "CONTAINERS_CONF": self._file("containers.conf", ""),
            "CONTAINERS_STORAGE_CONF": self._file(
                "storage.conf", f'[storage]\ndriver="overlay"\ngraphroot="{folder}/store"\nrunroot="{folder}/run"\n'
            ),
            "CONTAINERS_REGISTRIES_CONF": self._file("registries.conf", ""),
        }
        self._command = [
            *("podman", "--root", f"{folder}/store", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"),
            *("--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay"),
            *("--storage-opt", f"overlay.mount_program={program}"),
        ]
        self._file(".config/containers/policy.json", json.dumps(ACCEPT_ANYTHING))

    def _file(self, name: str, content: str) -> str:
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self._command, *words],
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"podman {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, image: str, script: str, *options: str) -> list[str]:
        """The lines that a shell script says in a new container."""
        return self("run", *LIMITS, *options, image, "sh", "-ec", script).splitlines()

    def servers(self) -> list[str]:
        """Processes of the mount program."""
        found = []
        for name in os.listdir("/proc"):
            try:
                words = Path(f"/proc/{name}/cmdline").read_text().split("\0")
            except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
                continue
            if "-m" in words and any(word.startswith(f"{self.folder}/store") for word in words):
                found.append(name)
        return found

    def finish(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        left = self.servers()
        self("unshare", "sh", "-c", f"umount {self.folder}/store/overlay; rm -rf {self.folder}/store {self.folder}/run")
        self("system", "migrate")  # which ends the process that keeps the user namespace
        assert left == []


LIMITS = ("--network", "none", "--cgroups", "disabled")


@pytest.fixture(scope="module", params=["device", "pyfuse3"])
def podman(request: pytest.FixtureRequest) -> Iterator[Podman]:
    folder = tempfile.mkdtemp(prefix="pm", dir="/tmp")  # sockets in it must have short names
    os.chmod(folder, 0o755)
    try:
        command = Podman(folder, request.param)
        subprocess.run([CHECKOUT / "contrib/demo-image", f"{folder}/layout"], check=True, stdout=subprocess.DEVNULL)
        image = command("pull", "--quiet", "oci:layout:latest").strip()
        command("tag", image, "localhost/demo")
        try:
            yield command
        finally:
            command.finish()
    finally:
        shutil.rmtree(folder)


CHANGES = """
cd /; mkdir made; mkfifo made/pipe 2>/dev/null || mknod made/pipe p
cp /bin/busybox made/tool; ln made/tool made/again; chown 5:6 made/tool; chmod 4711 made/tool
rm /bin/vi; mv /etc /moved; ln -s made/tool pointer
"""
LOOK = """
stat -c '%n %a %u:%g %h %F' /made/tool /made/again /made/pipe
test ! -e /bin/vi; test -e /moved/passwd; readlink /pointer
"""
SEEN = ["/made/tool 4711 5:6 2 regular file", "/made/again 4711 5:6 2 regular file", "/made/pipe 644 0:0 1 fifo"]


def test_the_root_is_ours(podman: Podman) -> None:
    (line,) = podman.run("demo", "cat /proc/mounts | head -n 1", "--rm")
    assert line.startswith("fuse-overlayfs / fuse.fuse-overlayfs ")


def test_changes_are_seen_committed_and_kept(podman: Podman) -> None:
    podman.run("demo", CHANGES, "--name", "changed")
    different = podman("diff", "changed").splitlines()
    assert {"A /made", "A /made/tool", "A /moved", "A /pointer", "C /bin", "D /bin/vi"} <= set(different)
    podman("commit", "--quiet", "changed", "localhost/second")
    assert podman.run("second", LOOK, "--rm") == [*SEEN, "made/tool"]
    podman("rm", "changed")


def test_what_a_build_deletes_and_makes_again(podman: Podman) -> None:
    Path(podman.folder, "Containerfile").write_text(
        "FROM localhost/demo\n"
        "RUN mkdir /first && touch /first/old /first/older && echo one > /one\n"
        "RUN rm -r /first /one && mkdir /first && touch /first/new\n"
        "RUN test ! -e /first/old && test ! -e /one\n"
    )
    podman("build", "--quiet", "--network", "none", "--tag", "localhost/built", ".")
    assert podman.run("built", "ls /first; test ! -e /one", "--rm") == ["new"]


@pytest.mark.parametrize("userns", ["keep-id", "auto:size=3000"])
def test_ids_that_are_translated(podman: Podman, userns: str) -> None:
    script = "id -u; echo x > /tmp/x; stat -c '%u:%g' /tmp/x /bin/busybox /etc/passwd"
    user = str(os.getuid()) if userns == "keep-id" else "0"
    group = str(os.getgid()) if userns == "keep-id" else "0"
    assert podman.run("demo", script, "--rm", "--userns", userns) == [user, f"{user}:{group}", "0:0", "0:0"]


def test_a_container_that_starts_again(podman: Podman) -> None:
    podman("run", "--detach", *LIMITS, "--name", "again", "localhost/demo", "sleep", "1000")
    podman("exec", "again", "sh", "-c", "echo kept > /kept; ln /kept /linked; chown 7:8 /kept")
    podman("stop", "--time", "0", "again")
    assert podman.servers() == []
    podman("start", "again")
    seen = podman("exec", "again", "sh", "-c", "cat /linked; stat -c '%u:%g %h' /kept").split("\n")
    assert seen[:2] == ["kept", "7:8 2"]
    podman("rm", "--force", "--time", "0", "again")


def test_an_overlay_over_a_directory_of_the_host(podman: Podman) -> None:
    directory = Path(podman.folder, "directory")
    directory.mkdir()
    (directory / "old").write_text("old\n")
    script = "cat /there/old; rm /there/old; echo new > /there/new; ls /there"
    assert podman.run("demo", script, "--rm", "--volume", f"{directory}:/there:O") == ["old", "new"]
    assert os.listdir(directory) == ["old"]


def test_a_volume_that_takes_over_what_the_image_has(podman: Podman) -> None:
    assert podman.run("demo", "ls -A /etc | wc -l; touch /etc/new", "--rm", "--volume", "etc:/etc") != ["0"]
    assert podman.run("demo", "ls /etc/new", "--rm", "--volume", "etc:/etc") == ["/etc/new"]
