"""commit, export, import and diff: images of containers show what the containers showed."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.kit.command import Rcontain

pytestmark = [pytest.mark.fuse, pytest.mark.registry, pytest.mark.usefixtures("clean")]

SEED = int(os.environ.get("RCONTAIN_TEST_SEED", "1"))
ROUNDS = int(os.environ.get("RCONTAIN_TEST_ROUNDS", "1"))
DISORDER = Path(__file__).with_name("disorder.py")
_FIRST = 5  # the field of a snapshot that says of which file a path is a name
PYTHON = os.path.realpath(sys.executable)
# The machine's own Python, for a container that has none.
MACHINE = [
    "-v",
    "/usr:/machine:ro",
    "-v",
    "/usr/lib:/lib:ro",
    "-v",
    "/usr/lib64:/lib64:ro",
    "-e",
    "PYTHONHOME=/machine",
]


def quiet(box: Rcontain) -> list[str]:
    """Flags of a container that can run `disorder`. The program is a copy, since that of the engine is refused."""
    python = box.home / "python"
    if not python.exists():
        shutil.copy(PYTHON, python)
    return ["--network", "none", *MACHINE, "-v", f"{python}:/volume/python:ro"]


def disorder(*words: str) -> list[str]:
    return ["/volume/python", "-S", "-c", DISORDER.read_text(), *words]


def shown(text: bytes) -> dict[str, Any]:
    """A snapshot by readable paths."""
    return {bytes.fromhex(name).decode("utf-8", "surrogateescape"): fields for name, fields in json.loads(text).items()}


def _hex(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").hex()


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        path: (before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }


def check_same(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    """The kernel's overlay shows two names of a file of a layer as two files until it is mounted anew."""
    for path, fields in before.items():
        if path in after and fields[_FIRST] == _hex(path):
            fields[_FIRST] = after[path][_FIRST]
    found = differences(before, after)
    if found:
        pytest.fail("\n  ".join([when, *(f"{path!r}: {one}\n    {other}" for path, (one, other) in found.items())]))


def played(box: Rcontain, demo: str, seed: int, *flags: str) -> None:
    """Changes, commit, look; and the same again on top of the new image."""
    image = demo
    for turn in range(2):
        name = f"disorder{turn}"
        before = shown(
            box("run", *flags, "--name", name, *quiet(box), image, *disorder("change", f"{seed}{turn}", "60")).stdout
        )
        box("commit", "-q", name, f"localhost/changed:{turn}")
        image = f"localhost/changed:{turn}"
        after = shown(box("run", "--rm", *flags, *quiet(box), image, *disorder("snapshot")).stdout)
        check_same(before, after, f"seed {seed}, turn {turn}")
    box("commit", "-q", "--squash", name, "localhost/flat")
    flat = shown(box("run", "--rm", *flags, *quiet(box), "localhost/flat", *disorder("snapshot")).stdout)
    check_same(before, flat, f"seed {seed}, squashed")
    box("rm", "-f", "disorder0", "disorder1")
    box("rmi", "-f", "localhost/changed:0", "localhost/changed:1", "localhost/flat")


def test_an_image_shows_what_the_container_showed(box: Rcontain, demo: str) -> None:
    for seed in range(SEED, SEED + ROUNDS):
        played(box, demo, seed)


def test_translated_owners_come_back(box: Rcontain, demo: str, driver: str) -> None:
    """With keep-id the files of the upper directory have other owners than those of the image."""
    if driver == "overlay":
        refused = box("create", "--userns", "keep-id", demo, "true", check=False)
        assert b"ids are translated" in refused.stderr
        return
    played(box, demo, SEED + 100, "--userns", "keep-id", "--user", "0")


@pytest.mark.nosub
def test_a_single_id_keeps_the_images_owners(auto_box: Rcontain, demo: str) -> None:
    box = auto_box
    played(box, demo, SEED + 200)
    change = (
        "rm -rf /srv; mkdir /srv; echo x >/srv/f; chmod 4711 /srv/f; echo more >>/home/user/.profile; mkfifo /srv/p"
    )
    box("run", "--name", "one", "--network", "none", demo, "sh", "-c", change)
    box("commit", "one", "localhost/one")
    with tarfile.open(fileobj=io.BytesIO(box("export", "one").stdout)) as archive:
        owners = {info.name: (info.uid, info.gid, info.mode) for info in archive}
    assert owners["home/user/.profile"] == (1000, 1000, 0o644)  # that of the image, though all are root's inside
    assert owners["srv/f"] == (0, 0, 0o4711)
    box("rm", "one")
    box("rmi", "localhost/one")


def test_the_layer_and_its_documents(box: Rcontain, demo: str) -> None:
    script = "mkdir /n; echo hi >/n/f; ln /n/f /n/g; rm -rf /srv; mkdir /srv; rm /etc/motd; echo >/etc/outdated"
    script += "; echo done; sleep 1000"
    box(
        "run",
        "-d",
        "--name",
        "one",
        "--network",
        "none",
        "-v",
        "data:/a/b/c",
        "-e",
        "A=1",
        "-l",
        "x=y",
        demo,
        "sh",
        "-c",
        script,
    )
    _settled(box)
    changes = ["-c", 'CMD ["cat", "/n/g"]', "-c", "EXPOSE 80", "-c", "WORKDIR /n"]
    id = box.text(
        "commit",
        "-p",
        "-a",
        "Me <me@example.org>",
        "-m",
        "why",
        *changes,
        "--include-volumes",
        "--iidfile",
        "id",
        "one",
        "made:1",
    )
    assert (box.home / "id").read_text() == id
    assert box.text("exec", "one", "cat", "/n/f") == "hi"  # it goes on
    image = json.loads(box.text("image", "inspect", "localhost/made:1"))[0]
    assert (image["Id"], image["Author"], image["RepoTags"]) == (id, "Me <me@example.org>", ["localhost/made:1"])
    config = image["Config"]
    assert "A=1" in config["Env"] and config["Labels"]["x"] == "y"
    assert (config["Cmd"], list(config["ExposedPorts"]), list(config["Volumes"])) == (
        ["cat", "/n/g"],
        ["80/tcp"],
        ["/a/b/c"],
    )
    assert config["WorkingDir"] == "/n"
    last = image["History"][-1]
    assert (last["author"], last["comment"]) == ("Me <me@example.org>", "why")
    assert last["created_by"].startswith("sh -c mkdir /n;")
    layer = blob(box, manifest(box, "localhost/made:1")["layers"][-1]["digest"])
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        found = {info.name: info for info in archive}
    assert sorted(found) == ["etc", "etc/.wh.motd", "etc/outdated", "n", "n/f", "n/g", "srv", "srv/.wh..wh..opq"]
    assert found["n/g"].linkname == "n/f"
    assert box.text("run", "--rm", "--network", "none", "localhost/made:1") == "hi"
    assert box.text("diff", "one").splitlines() == [
        "C /etc", "D /etc/motd", "A /etc/outdated", "A /n", "A /n/f", "A /n/g", "C /srv", "D /srv/hidden", "D /srv/kept"
    ]  # fmt: skip
    assert json.loads(box.text("container", "diff", "--format", "json", "one"))["deleted"] == [
        "/etc/motd", "/srv/hidden", "/srv/kept"
    ]  # fmt: skip
    assert "A /n/f" in box.text("image", "diff", "localhost/made:1").splitlines()
    box("rm", "-f", "-t", "0", "-v", "one")
    box("rmi", "localhost/made:1")
    box("volume", "rm", "data", check=False)


def _settled(box: Rcontain) -> None:
    """Waits until the container `one` says that it has made its changes."""
    for _ in range(200):
        if box.text("logs", "one") == "done":
            return
        time.sleep(0.05)
    pytest.fail("the container did not get on")


def manifest(box: Rcontain, name: str) -> Any:
    digest = box.text("image", "inspect", "--format", "{{.Digest}}", name)
    return json.loads(blob(box, digest))


def blob(box: Rcontain, digest: str) -> bytes:
    return (box.data / "rcontain" / "blobs" / digest.replace(":", "/")).read_bytes()


def test_the_same_again_is_the_same_image(box: Rcontain, demo: str) -> None:
    box("run", "--name", "one", "--network", "none", demo, "touch", "-d", "@1000000000", "/new")
    box.environment["SOURCE_DATE_EPOCH"] = "1700000000"
    try:
        ids = {box.text("commit", "one") for _ in range(2)}
        box.environment["SOURCE_DATE_EPOCH"] = "today"
        assert "SOURCE_DATE_EPOCH" in box("commit", "one", check=False).stderr.decode()
    finally:
        del box.environment["SOURCE_DATE_EPOCH"]
    assert len(ids) == 1
    image = json.loads(box.text("image", "inspect", *ids))[0]
    assert image["Created"].startswith("2023-11-14T22:13:20")
    box("rm", "one")
    box("rmi", *ids)


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_an_export_is_what_the_container_shows(box: Rcontain, demo: str, tool: str, tmp_path: Path) -> None:
    """GNU tar and bsdtar unpack it; the running container's own view of each file is the same."""
    script = "mkdir /n; echo hi >/n/f; ln /n/f /n/g; ln -s /n/f /n/s; rm -rf /srv; chown 33:50 /n/f; chmod 4755 /n/f"
    script += "; echo done; sleep 1000"
    box("run", "-d", "--name", "one", "--network", "none", demo, "sh", "-c", script)
    _settled(box)
    out = tmp_path / "one.tar"
    box("export", "-o", str(out), "one")
    assert box("export", "one").stdout == out.read_bytes()
    listed = subprocess.run([tool, "-tvf", str(out)], capture_output=True, check=True)
    assert listed.stderr == b""
    command = "find / -xdev -exec stat -c '%n %f %u %g %Y' {} +"
    inside = dict(line.split(" ", 1) for line in box.text("exec", "one", "sh", "-c", command).splitlines())
    with tarfile.open(out) as archive:
        packed = {
            f"/{info.name}".removesuffix("."): f"{_mode(info):x} {info.uid} {info.gid} {int(info.mtime)}"
            for info in archive
        }
    # The kernel's overlay shows directories that a layer only implies as made by the engine.
    mounted = (
        "/usr",
        "/usr/bin",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/run/.containerenv",
        "/dev",
        "/proc",
        "/sys",
    )
    for path in mounted:
        inside.pop(path)
        packed.pop(path, None)
    assert inside == packed
    with tarfile.open(out) as archive:
        assert archive.getmember("n/g").linkname == "n/f"
        assert archive.getmember("n/s").linkname == "/n/f"
    box("rm", "-f", "-t", "0", "one")


def _mode(info: tarfile.TarInfo) -> int:
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR}
    return kinds.get(info.type, stat.S_IFREG) | info.mode


def test_bad_input_is_refused_in_one_sentence(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    box = auto_box
    box("create", "--name", "one", "--network", "none", demo, "true")
    before = stored(box)
    archive = box("export", "one").stdout
    (tmp_path / "cut.tar").write_bytes(archive[:700_001])
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(archive)[:-100])
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(archive[:1024]))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as hostile:
        hostile.addfile(tarfile.TarInfo("../../escaped"))
    (tmp_path / "out.tar").write_bytes(out.getvalue())
    (tmp_path / "config").write_text("[1, 2]")
    for words in [
        ("commit", "nobody"),
        ("commit", "one", "a@sha256:" + "0" * 64),
        ("commit", "one", "Bad Name"),
        ("commit", "-c", "RUN make", "one"),
        ("commit", "--config", str(tmp_path / "config"), "one"),
        ("commit", "--config", str(tmp_path / "nowhere"), "one"),
        ("export", "nobody"),
        ("export", "-o", str(tmp_path / "no" / "where"), "one"),
        ("diff", "nobody"),
        ("diff",),
        ("image", "diff", "nobody"),
        ("import", "nowhere.tar"),
        ("import", str(tmp_path)),
        ("import", "-"),
        ("import", str(tmp_path / "config")),
        ("import", str(tmp_path / "cut.tar")),
        ("import", str(tmp_path / "packed.tar.gz")),
        ("import", str(tmp_path / "x.tar.xz")),
        ("import", str(tmp_path / "out.tar")),
        ("import", "-c", "FROM x", str(tmp_path / "cut.tar")),
        ("import", "http://127.0.0.1:1/x.tar"),
    ]:
        done = box(*words, check=False)
        said = done.stderr.decode()
        assert done.returncode == 125, words
        assert said.startswith("Error: ") and said.count("\n") == 1, (words, said)
    assert stored(box) == before
    assert not list(tmp_path.glob("*.part"))
    box("rm", "one")


def stored(box: Rcontain) -> set[str]:
    """All that the store has, without locks."""
    store = box.data / "rcontain"
    folders = ("blobs/sha256", "layers", "tmp")
    return {f"{name}/{each}" for name in folders for each in os.listdir(store / name) if not each.endswith("lock")}


def test_an_archive_becomes_an_image(auto_box: Rcontain, demo: str) -> None:
    box = auto_box
    box("create", "--name", "one", "--network", "none", demo, "true")
    archive = box("export", "one").stdout
    forms = {"tar": archive, "tar.gz": gzip.compress(archive, 1), "tar.zst": zstandard.compress(archive)}
    for name, content in forms.items():
        (box.home / name).write_bytes(content)
        flags = ["-c", "CMD cat /etc/motd", "-m", "from a file", "--arch", os.uname().machine]
        box("import", *flags, name, "localhost/one")
        assert box.text("run", "--rm", "--network", "none", "localhost/one") == box.text(
            "run", "--rm", "--network", "none", demo, "cat", "/etc/motd"
        )
        layer = manifest(box, "localhost/one")["layers"][0]
        assert blob(box, layer["digest"]) == content  # as it came
        assert box("import", "-", "localhost/two", input=content).returncode == 0
        box("rmi", "localhost/one", "localhost/two")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(box.home)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        box("import", f"{address}/tar.zst", "localhost/three")
        assert "404" in box("import", f"{address}/nothing", check=False).stderr.decode()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    box("rmi", "localhost/three")
    box("rm", "one")
