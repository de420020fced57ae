"""What commit makes, taken by other tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.kit.command import Rcontain

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.registry, pytest.mark.usefixtures("clean")]


def test_other_tools_take_it(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    """skopeo copies the new image and umoci unpacks it."""
    box = auto_box
    script = "mkdir /n; echo hi >/n/f; ln /n/f /n/g; chmod 4755 /n/f; rm -rf /srv /etc/motd; mkdir /srv"
    box("create", "--name", "whole", demo, "true")
    box("import", "-", "localhost/base", input=box("export", "whole").stdout)  # Debian's umoci cannot read zstd
    box("run", "--name", "one", "--network", "none", "localhost/base", "sh", "-c", script)
    for form in ("oci", "docker"):
        box("commit", "-f", form, "-c", "CMD cat /n/g; ls -A /srv /etc", "one", f"localhost/{form}")
    store = box.data / "rcontain"
    layout = tmp_path / "layout"
    copy = ["skopeo", "copy", "-q", "--insecure-policy", f"oci:{store}:localhost/oci:latest", f"oci:{layout}:new"]
    subprocess.run(copy, check=True, capture_output=True)
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{layout}:new", str(tmp_path / "bundle")]
    subprocess.run(unpack, check=True, capture_output=True)
    rootfs = tmp_path / "bundle" / "rootfs"
    assert (rootfs / "n/g").read_text() == "hi\n" and (rootfs / "n/f").stat().st_ino == (rootfs / "n/g").stat().st_ino
    assert os.listdir(rootfs / "srv") == [] and not (rootfs / "etc/motd").exists()
    validated = subprocess.run(["umoci", "stat", "--image", f"{layout}:new", "--json"], check=True, capture_output=True)
    assert len(json.loads(validated.stdout)["history"]) > 1
    inspected = subprocess.run(["skopeo", "inspect", f"oci:{layout}:new"], check=True, capture_output=True)
    assert json.loads(inspected.stdout)["Layers"]
    box("rm", "one", "whole")
    box("rmi", "localhost/oci", "localhost/docker", "localhost/base")


@pytest.mark.podman
def test_podman_loads_and_runs_it(auto_box: Rcontain, demo: str) -> None:
    box = auto_box
    script = "mkdir /n; echo hi >/n/f; ln /n/f /n/g; chown 5:6 /n/f; chmod 4711 /n/f; rm -rf /srv /etc/motd; mkdir /srv"
    look = "stat -c '%n %a %u:%g %h' /n/f /n/g; ls -A /srv; test ! -e /etc/motd; cat /n/g"
    box("run", "--name", "one", "--network", "none", demo, "sh", "-c", script)
    # Podman would take the mode of the demo image's hard links, which are not executable, for that of their target.
    box("commit", "--squash", "one", "localhost/one")
    wanted = box.text("run", "--rm", "--network", "none", "localhost/one", "sh", "-ec", look)
    assert wanted.splitlines() == ["/n/f 4711 5:6 2", "/n/g 4711 5:6 2", "hi"]
    folder = Path(tempfile.mkdtemp(prefix="pm", dir="/tmp"))  # sockets in it must have short names
    folder.chmod(0o755)
    try:
        archive = folder / "one.tar"
        copy = f"oci:{box.data}/rcontain:localhost/one:latest", f"oci-archive:{archive}:localhost/one:latest"
        subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", *copy], check=True, capture_output=True)
        (folder / "runtime").mkdir(mode=0o700)
        (folder / ".config" / "containers").mkdir(parents=True)
        accept = {"default": [{"type": "insecureAcceptAnything"}]}
        (folder / ".config" / "containers" / "policy.json").write_text(json.dumps(accept))
        podman = [
            *("podman", "--root", f"{folder}/store", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"),
            *("--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "vfs"),
        ]
        environment = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": f"{folder}/runtime"}

        def run(*words: str) -> str:
            done = subprocess.run([*podman, *words], env=environment, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        try:
            assert "localhost/one:latest" in run("load", "-q", "-i", str(archive))
            limits = ("--network", "none", "--cgroups", "disabled")
            assert run("run", "--rm", *limits, "localhost/one", "sh", "-ec", look).strip() == wanted
        finally:
            run("unshare", "rm", "-rf", f"{folder}/store", f"{folder}/run")
            run("system", "migrate")  # which ends the process that keeps the user namespace
    finally:
        shutil.rmtree(folder)
    box("rm", "one")
    box("rmi", "localhost/one")
