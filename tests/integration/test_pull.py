"""`pull` from real and from hostile registries: what arrives is right, or one sentence says why there is nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_bad_input import complaint
from tests.integration.test_network import free_port
from tests.kit.command import Rcontain
from tests.kit.images import LayerBlob, Layout, demo_config, demo_layers, demo_layout, file, pack, push, tar
from tests.kit.registry import Answer, FakeRegistry, Request, fake_registry, registry

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The demo image as `latest`, and what is wrong with others as their tag."""
    made = demo_layout(str(tmp_path_factory.mktemp("layout")), "latest")
    good = pack(tar([file("x", b"x")]))
    made.image("bad-diff-id", [good], {"Cmd": ["x"]}, diff_ids=["sha256:" + "0" * 64])
    made.image("few-diff-ids", [good, pack(tar([file("y")]))], {"Cmd": ["x"]}, diff_ids=[good.diff_id])
    for tag, packed in (
        ("bad-gzip", good.packed[:-9] + b"\0" * 9),
        ("no-gzip", b"nonsense" * 40),
        ("bad-tar", pack(b"nonsense" * 100).packed),
    ):
        made.image(tag, [LayerBlob(good.raw, packed, good.media_type)], {"Cmd": ["x"]})
    made.image("unknown-compression", [LayerBlob(good.raw, good.packed, good.media_type.replace("gzip", "lz77"))], {})
    made.image("encrypted", [LayerBlob(good.raw, good.packed, good.media_type + "+encrypted")], {})
    made.manifest("unknown-type", {"schemaVersion": 2, "mediaType": "application/vnd.example.nonsense+json"})
    made.manifest("schema1", {"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"})
    made.index("elsewhere", [made.image(None, [good], {}, architecture="s390x")])
    made.image("foreign", [good], {"Cmd": ["x"]}, architecture="s390x")
    made.index("empty", [])
    escape = tar([file("../../../escape"), file("/etc/absolute"), file("a/../../b")])
    made.image("escape", [pack(escape)], {"Cmd": ["x"]})
    return made


@pytest.fixture
def fake(layout: Layout) -> Iterator[FakeRegistry]:
    with fake_registry(layout.path) as server:
        yield server


def test_every_compression_and_both_formats(auto_box: Rcontain, demo_registry: str, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    layers = demo_layers()
    for kind in ("gzip", "zstd", "none"):
        layout.image(kind, [pack(layer, kind) for layer in layers], demo_config())
        push(layout.path, kind, demo_registry, f"kinds:{kind}")
    push(layout.path, "gzip", demo_registry, "kinds:docker", docker=True)
    for kind in ("gzip", "zstd", "none", "docker"):
        image = f"{demo_registry}/kinds:{kind}"
        for driver in ("fuse", "packed", "overlay"):
            command = ("--storage-driver", driver, "run", "--rm", "-q", image, "cat", "/etc/motd")
            assert auto_box.text(*command) == "three layers"


def test_progress_of_a_pull(rcontain: Rcontain, demo: str) -> None:
    """Plain lines where there is no terminal, the id on stdout."""
    done = rcontain("pull", demo)
    assert len(done.stdout) == 65 and b"\x1b" not in done.stderr and done.stderr.count(b"\n") >= 3


def test_platforms(auto_box: Rcontain, fake: FakeRegistry, layout: Layout) -> None:
    here = layout.image(None, [pack(tar([file("here")]))], {"Cmd": ["x"]})
    there = layout.image(None, [pack(tar([file("there")]))], {"Cmd": ["x"]}, architecture="arm64", variant="v8")
    layout.index("both", [there, here])
    image = f"{fake.address}/x:both"
    first = auto_box.text("pull", "-q", image)
    second = auto_box.text("pull", "-q", "--platform", "linux/arm64", image)
    assert first != second
    document = json.loads(auto_box.text("inspect", second))[0]
    assert (document["Architecture"], document["Os"]) == ("arm64", "linux")


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("no-such-tag", "no-such-tag"),
        ("bad-diff-id", "unpacks to"),
        ("few-diff-ids", "layers"),
        ("bad-gzip", "layer"),
        ("no-gzip", "gzip"),
        ("bad-tar", "tar"),
        ("unknown-compression", "lz77"),
        ("encrypted", "encrypted"),
        ("unknown-type", "nonsense"),
        ("schema1", "schema 1"),
        ("elsewhere", "s390x"),
        ("empty", "platform"),
    ],
)
def test_images_that_are_wrong(box: Rcontain, fake: FakeRegistry, tag: str, said: str) -> None:
    image = f"{fake.address}/x:{tag}"
    assert said in complaint(box("pull", image, check=False)).lower()
    complaint(box("run", "--rm", image, "true", check=False))
    assert tag not in box.text("images", "-a")


def test_names_in_a_layer_that_lead_outside(box: Rcontain, fake: FakeRegistry) -> None:
    """Nothing is written outside of the store, whether the image is refused or its names are cut."""
    done = box("pull", f"{fake.address}/x:escape", check=False)
    assert done.returncode == 0 or complaint(done)
    assert not list(box.root.rglob("escape")) or all("layers" in str(path) for path in box.root.rglob("escape"))
    box("rmi", f"{fake.address}/x:escape", check=False)


def once(path: str, answer: Answer, times: int = 1000) -> Callable[[Request], Answer | None]:
    """A rule that answers what contains `path` the first `times` times."""
    seen = [0]

    def rule(request: Request) -> Answer | None:
        if path not in request.path or seen[0] >= times:
            return None
        seen[0] += 1
        return answer

    return rule


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/manifests/", Answer(404), "latest"),
        ("/manifests/", Answer(401), "logging in"),
        ("/manifests/", Answer(403, b'{"errors":[{"code":"DENIED","message":"not you"}]}'), "not you"),
        ("/manifests/", Answer(429, headers={"Retry-After": "0"}), "too many requests"),
        ("/manifests/", Answer(500), "500"),
        ("/manifests/", Answer(503, headers={"Retry-After": "0"}), "503"),
        (
            "/manifests/",
            Answer(200, b"not json", {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}),
            "manifest",
        ),
        ("/manifests/", Answer(200, b"[" * 100_000, {"Content-Type": "application/json"}), "manifest"),
        ("/manifests/", Answer(302, headers={"Location": "ftp://example.org/"}), "redirect"),
        ("/blobs/", Answer(404), "lost blob"),
        ("/blobs/", Answer(200, b"something else"), "cut off"),
        ("/blobs/", Answer(200, b"x" * 100, cut=10), ""),
        ("/blobs/", Answer(302, headers={"Location": "/v2/x/blobs/loop"}), "redirect"),
    ],
)
def test_registries_that_misbehave(
    auto_box: Rcontain, fake: FakeRegistry, path: str, answer: Answer, said: str
) -> None:
    auto_box("rmi", "-a", "-f", check=False)
    fake.rules.append(once(path, answer))
    text = complaint(auto_box("pull", f"{fake.address}/x", check=False))
    assert said in text.lower(), text
    assert fake.address not in auto_box.text("images", "-a")


@pytest.mark.parametrize("position", [0, -1])
def test_a_blob_with_one_wrong_byte(auto_box: Rcontain, fake: FakeRegistry, position: int) -> None:
    def spoil(request: Request) -> Answer | None:
        if "/blobs/" not in request.path:
            return None
        whole = fake.honest(request)
        body = bytearray(whole.body)
        body[position] ^= 1
        return Answer(whole.status, bytes(body), whole.headers)

    auto_box("rmi", "-a", "-f", check=False)
    fake.rules.append(spoil)
    assert "sha256:" in complaint(auto_box("pull", f"{fake.address}/x", check=False))
    assert fake.address not in auto_box.text("images", "-a")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/manifests/", Answer(503, headers={"Retry-After": "0"})),
        ("/blobs/", Answer(429, headers={"Retry-After": "0"})),
        ("/blobs/", Answer(500)),
    ],
)
def test_registries_that_recover(auto_box: Rcontain, fake: FakeRegistry, path: str, answer: Answer) -> None:
    auto_box("rmi", "-a", "-f", check=False)
    fake.rules.append(once(path, answer, 1))
    auto_box("pull", "-q", f"{fake.address}/x")
    auto_box("rmi", f"{fake.address}/x")


def test_a_body_that_breaks_off_is_resumed(auto_box: Rcontain, fake: FakeRegistry, layout: Layout) -> None:
    def cut(request: Request) -> Answer | None:
        if "/blobs/" not in request.path or "range" in request.headers:
            return None
        whole = fake.honest(request)
        return Answer(whole.status, whole.body, whole.headers, cut=len(whole.body) // 2)

    auto_box("rmi", "-a", "-f", check=False)
    fake.rules.append(cut)
    auto_box("pull", "-q", f"{fake.address}/x")
    auto_box("rmi", f"{fake.address}/x")


def test_no_registry_there(auto_box: Rcontain) -> None:
    port = free_port()
    assert "refused" in complaint(auto_box("pull", f"127.0.0.1:{port}/x", check=False)).lower()


def test_something_else_than_a_registry(auto_box: Rcontain) -> None:
    """A server that talks, but no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            complaint(auto_box("pull", f"127.0.0.1:{listener.getsockname()[1]}/x", check=False))
        finally:
            ended.set()
            thread.join()


def test_passwords(auto_box: Rcontain, tmp_path: Path, layout: Layout) -> None:
    htpasswd = tmp_path / "htpasswd"
    # htpasswd -nbB -C 4 user secret
    htpasswd.write_text("user:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n")
    with registry(str(tmp_path), htpasswd=str(htpasswd)) as address:
        said = complaint(auto_box("pull", f"{address}/x", check=False))
        assert "login" in said.lower() or "credentials" in said.lower() or "password" in said.lower()
        said = complaint(auto_box("pull", "--creds", "user:wrong", f"{address}/x", check=False))
        assert address in said and "user:wrong" not in said
        assert complaint(auto_box("pull", "--creds", "nonsense", f"{address}/x", check=False))


def test_an_image_that_is_not_there_is_not_pulled(auto_box: Rcontain) -> None:
    said = complaint(auto_box("run", "--rm", "--pull", "never", "127.0.0.1:1/nosuch", "true", check=False))
    assert "nosuch" in said


def test_two_pulls_of_one_image_at_once(rcontain: Rcontain, fake: FakeRegistry) -> None:
    """Both succeed, and each blob crosses the wire once."""
    image = f"{fake.address}/x"
    running = [
        subprocess.Popen(
            rcontain.words("pull", "-q", image),
            env=rcontain.environment,
            cwd=rcontain.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    outcomes = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outcomes
    assert len({out for out, _ in outcomes}) == 1
    blobs = [request.path for request in fake.requests if "/blobs/" in request.path]
    assert len(blobs) == len(set(blobs))


def test_no_space_for_a_file_in_the_middle_of_a_pull(rcontain: Rcontain, fake: FakeRegistry) -> None:
    """RLIMIT_FSIZE of the caller, which its session takes over: a file cannot grow beyond 300 kB."""
    limit = 'ulimit -f 600; "$@"; code=$?; "$0" engine stop; exit $code'
    words = ["sh", "-c", limit, str(rcontain.launcher), *rcontain.words("pull", f"{fake.address}/x")]
    done = subprocess.run(words, env=rcontain.environment, cwd=rcontain.home, capture_output=True, timeout=60)
    assert "large" in complaint(done).lower() or "space" in complaint(done).lower()
    assert rcontain.text("images", "-q") == ""
    rcontain("pull", "-q", f"{fake.address}/x")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_full_disk_in_the_middle_of_a_pull(rcontain: Rcontain, fake: FakeRegistry, number: int) -> None:
    """The store is a tmpfs in a user and mount namespace, filled to the brim while the blob `number` is awaited.

    Afterwards there is nothing half-done, and with space again the pull succeeds.
    """
    wanted, done_filling = rcontain.home / "fill", rcontain.home / "full"
    blobs: list[str] = []

    def fill(request: Request) -> Answer | None:
        if "/blobs/" in request.path:
            blobs.append(request.path)
            if len(blobs) == number:
                wanted.touch()
            while len(blobs) >= number and not done_filling.exists():
                time.sleep(0.01)
        return None

    fake.rules.append(fill)
    # As root of a user namespace: mount, then rcontain without an engine that would outlive it.
    script = f"""
        mount -t tmpfs -o size=20m,mode=700 none "$XDG_DATA_HOME" || exit 99
        (until [ -e {wanted} ]; do sleep 0.01; done
         cat /dev/zero >"$XDG_DATA_HOME/filler" 2>/dev/null; touch {done_filling}) &
        rcontain --no-engine pull {fake.address}/x; echo "code $?"
        wait
        find "$XDG_DATA_HOME/rcontain/tmp" -mindepth 1 ! -name '*.lock' ! -name lock
        rcontain --no-engine images -q
        rm "$XDG_DATA_HOME/filler"
        rcontain --no-engine pull -q {fake.address}/x >/dev/null && echo recovered"""
    words = ["unshare", "--user", "--map-auto", "--map-root-user", "--mount", "sh", "-c", script]
    environment = {**rcontain.environment, "PATH": f"{rcontain.launcher.parent}:{rcontain.environment['PATH']}"}
    done = subprocess.run(words, env=environment, cwd=rcontain.home, capture_output=True, text=True, timeout=100)
    assert done.stdout.split("\n") == ["code 125", "recovered", ""], done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("Error: ") == 1
    assert "no space left on device" in done.stderr.lower() or "free some space" in done.stderr


def test_too_little_space_is_said_before_the_pull(rcontain: Rcontain, fake: FakeRegistry) -> None:
    script = f"""
        mount -t tmpfs -o size=500k,mode=700 none "$XDG_DATA_HOME" || exit 99
        exec rcontain --no-engine pull {fake.address}/x"""
    words = ["unshare", "--user", "--map-auto", "--map-root-user", "--mount", "sh", "-c", script]
    environment = {**rcontain.environment, "PATH": f"{rcontain.launcher.parent}:{rcontain.environment['PATH']}"}
    done = subprocess.run(words, env=environment, cwd=rcontain.home, capture_output=True, timeout=60)
    assert "free some space" in complaint(done)
    assert len([request for request in fake.requests if "/blobs/" in request.path]) <= 1  # the configuration
