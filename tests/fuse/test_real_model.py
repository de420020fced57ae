"""A mount against a plain directory: random operations, new mounts, layers on layers, and kill -9.

RCONTAIN_TEST_SEED replays what a failure printed, RCONTAIN_TEST_ROUNDS plays longer.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress

import pytest

from fuse.layers import Layer
from fuse.layers.directory import DirectoryLayer
from fuse.server import serve
from fuse.syscalls import MNT_DETACH, umount
from tests.fuse.archives import archive_of_tar
from tests.fuse.namespaces import in_namespace, options_here, started
from tests.fuse.player import Player, ServerGone, set_xattr

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

SEED = int(os.environ.get("RCONTAIN_TEST_SEED", "7"))
ROUNDS = int(os.environ.get("RCONTAIN_TEST_ROUNDS", "50"))
TURNS = 60


class Stage:
    """The mount, its layers, and the plain directory beside it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.mountpoint = folder + "/merged"
        self.plain = folder + "/plain"
        self.lowers: list[str] = []  # directories on top of the archive
        self.archive: str | None = None
        for path in (self.mountpoint, self.plain):
            os.mkdir(path)
        self.new_upper()

    def new_upper(self) -> None:
        self.upper = f"{self.folder}/upper{len(self.lowers)}"
        self.work = f"{self.folder}/work{len(self.lowers)}"
        os.mkdir(self.upper)
        os.mkdir(self.work)

    def pack(self) -> None:
        """What is in the plain directory becomes the lowest layer."""
        self.archive = self.folder + "/base.tar"
        words = ["tar", "-C", self.plain, "--xattrs", "--format=pax", "-cf", self.archive, "."]
        subprocess.run(words, check=True)

    def layers(self) -> list[Layer]:
        layers: list[Layer] = [DirectoryLayer(path) for path in reversed(self.lowers)]
        if self.archive is not None:
            layers.append(archive_of_tar(self.folder, "base", self.archive))
        return layers

    def mount(self) -> None:
        self.pid = started(
            lambda ready_fd: serve(
                self.mountpoint, self.layers(), self.upper, self.work, options=options_here(), ready_fd=ready_fd
            )
        )

    def unmount(self) -> None:
        umount(self.mountpoint.encode())
        os.waitpid(self.pid, 0)

    def bury(self) -> None:
        """Clear away the mount of a server that was killed."""
        umount(self.mountpoint.encode(), MNT_DETACH)
        os.waitpid(self.pid, 0)


@in_namespace
def test_a_mount_does_what_a_directory_does(folder: str) -> None:
    os.umask(0)
    stage = Stage(folder)
    first = Player(stage.plain, stage.plain, SEED)
    player = Player(stage.mountpoint, stage.plain, SEED)
    try:
        furnish(first)
        stage.pack()
        stage.mount()
        try:
            for number in range(ROUNDS):
                player.log.append(f"round {number}")
                play_round(stage, player)
        except BaseException:
            player.let_go()
            with suppress(OSError):
                umount(stage.mountpoint.encode(), MNT_DETACH)
            os.waitpid(stage.pid, 0)
            raise
        player.let_go()
        stage.unmount()
    except BaseException:
        print(f"seed {SEED}, after {len(player.log)} calls:", *player.log[-200:], sep="\n")
        raise


def furnish(player: Player) -> None:
    """Fill the plain directory, with hard links among its files."""
    for _ in range(150):
        operation, arguments = player.choose()
        if operation is set_xattr:
            continue  # archives of tests have none
        steps = operation(player.plain, *arguments)
        while player.step(steps) == 0:
            pass


def play_round(stage: Stage, player: Player) -> None:
    rand = player.random
    for _ in range(TURNS):
        player.turn()
    player.compare()
    ending = rand.choice(("remount", "rotate", "kill", "kill synced", "kill in between", "kill in between"))
    player.log.append(ending)
    if ending == "remount":
        player.let_go()
        stage.unmount()
        stage.mount()
        player.compare()
    elif ending == "rotate":  # what was the upper directory is the topmost layer
        player.let_go()
        stage.unmount()
        stage.lowers.append(stage.upper)
        stage.new_upper()
        stage.mount()
        player.versions.clear()
        player.compare()
    else:
        die(stage, player, ending)


def die(stage: Stage, player: Player, how: str) -> None:
    player.pending = player.touched = None
    player.mappings = False
    if how == "kill in between":
        killer = os.fork()
        if killer == 0:
            select.select([], [], [], player.random.random() * 0.02)
            os.kill(stage.pid, signal.SIGKILL)
            os._exit(0)
        try:
            while True:
                player.turn()
        except ServerGone:
            pass
        os.waitpid(killer, 0)
    else:
        if how == "kill synced":
            player.sync()
        os.kill(stage.pid, signal.SIGKILL)
    stage.bury()
    stage.mount()
    player.compare_after_kill()
    player.let_go()
    player.compare()
    player.mappings = True
