"""policy.json end to end: images signed by good and hostile hands, and Podman's verdict on the same.

Debian 12 has sigstore signatures disabled in its Podman and skopeo: there the judge has no verdict on them. A signature
that skopeo 1.18 made is in tests/rootless/image/test_signatures.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from rootless.image.signatures import ANNOTATION
from rootless.image.source import Attachment
from rootless.oci.digest import Digest
from tests.kit.command import Rcontain
from tests.kit.images import Layout, file, pack, push, tar
from tests.kit.podman import podman
from tests.kit.registry import registry
from tests.kit.signing import PrivateKey, attachment, new_key, payload, public_pem

pytestmark = [pytest.mark.registry, pytest.mark.userns]
DISABLED = b"sigstore disabled"
ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}


@dataclass
class Signed:
    """A registry with images: `plain` without a signature, and one for each signed or hostile one."""

    address: str
    directory: Path
    digests: dict[str, str]
    key: PrivateKey

    def publish(self, layout: Layout, name: str, *signatures: Attachment) -> str:
        raw = tar([file("name", name.encode())])
        descriptor = layout.image(name, [pack(raw)])
        push(layout.path, name, self.address, f"{name}:1")
        self.digests[name] = descriptor["digest"]
        if signatures:
            self.sign(name, *signatures)
        return str(descriptor["digest"])

    def sign(self, name: str, *signatures: Attachment) -> None:
        """Put signatures where cosign puts them."""
        layers = [
            {**self._blob(name, one.payload), "mediaType": one.media_type, "annotations": dict(one.annotations)}
            for one in signatures
        ]
        config = {**self._blob(name, b"{}"), "mediaType": "application/vnd.oci.image.config.v1+json"}
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
        tag = self.digests[name].replace(":", "-") + ".sig"
        url = f"http://{self.address}/v2/{name}/manifests/{tag}"
        httpx.put(url, content=json.dumps(manifest).encode(), headers={"Content-Type": kind}).raise_for_status()

    def _blob(self, name: str, content: bytes) -> dict[str, Any]:
        digest = str(Digest.of(content))
        started = httpx.post(f"http://{self.address}/v2/{name}/blobs/uploads/")
        where = httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest})
        httpx.put(where, content=content, headers={"Content-Type": "application/octet-stream"}).raise_for_status()
        return {"digest": digest, "size": len(content)}


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    directory = tmp_path_factory.mktemp("signed")
    layout = Layout(str(directory / "layout"))
    key = new_key()
    (directory / "key.pub").write_bytes(public_pem(key))
    with registry(str(directory)) as address:
        made = Signed(address, directory, {}, key)
        made.publish(layout, "plain")
        for name, signatures in _hands(made, layout):
            made.sign(name, *signatures)
        yield made


def _hands(made: Signed, layout: Layout) -> Iterator[tuple[str, list[Attachment]]]:
    def name_of(name: str) -> str:
        return f"{made.address}/{name}:1"

    for kind in ("p384", "ed25519", "rsa2048"):
        other = new_key(kind)
        (made.directory / f"{kind}.pub").write_bytes(public_pem(other))
        yield kind, [attachment(other, payload(made.publish(layout, kind), name_of(kind)))]
    key = made.key
    good = payload(made.publish(layout, "good"), name_of("good"), creator="us", timestamp=1)
    yield "good", [attachment(key, good)]
    raw = payload(made.publish(layout, "otherkey"), name_of("otherkey"))
    yield "otherkey", [attachment(new_key(), raw)]
    digest = made.publish(layout, "otherimage")
    yield "otherimage", [attachment(key, good)]
    digest = made.publish(layout, "othername")
    yield "othername", [attachment(key, payload(digest, name_of("good")))]
    digest = made.publish(layout, "untagged")
    yield "untagged", [attachment(key, payload(digest, name_of("untagged").removesuffix(":1")))]
    digest = made.publish(layout, "twice")
    raw = payload(made.digests["good"], name_of("twice"))
    raw = raw.replace(
        b'"docker-manifest-digest"', f'"docker-manifest-digest": "{digest}", "docker-manifest-digest"'.encode()
    )
    yield "twice", [attachment(key, raw)]
    digest = made.publish(layout, "more")
    yield "more", [attachment(key, payload(digest, name_of("more")).replace(b'"critical"', b'"x": 1, "critical"'))]
    digest = made.publish(layout, "notext")
    yield "notext", [attachment(key, b"\xff\xfe")]
    digest = made.publish(layout, "altered")
    one = attachment(key, payload(digest, name_of("altered")))
    yield "altered", [Attachment(one.media_type, one.payload + b"\n", one.annotations)]
    digest = made.publish(layout, "unbased")
    yield "unbased", [Attachment(one.media_type, payload(digest, name_of("unbased")), {ANNOTATION: "*"})]
    digest = made.publish(layout, "among")
    right = attachment(key, payload(digest, name_of("among")))
    yield "among", [attachment(new_key(), right.payload), attachment(key, b"{}"), right]


def configure(command: Rcontain, signed: Signed, *rules: Any, attachments: bool = True) -> None:
    directory = command.home / ".config/containers"
    (directory / "registries.d").mkdir(parents=True, exist_ok=True)
    setting = str(attachments).lower()
    text = f"docker:\n  {signed.address}:\n    use-sigstore-attachments: {setting}\n"
    (directory / "registries.d/x.yaml").write_text(text)
    policy = {"default": [REJECT], "transports": {"docker": {signed.address: list(rules)}}}
    (directory / "policy.json").write_text(json.dumps(policy))


def verdict(command: Rcontain, signed: Signed, name: str) -> bool:
    """Whether we take an image; Podman, where it has a verdict, has the same."""
    image = f"{signed.address}/{name}"
    ours = command("pull", "-q", image, check=False)
    if ours.returncode:
        assert ours.returncode == 125 and (b"accepted" in ours.stderr or b"malformed" in ours.stderr), ours.stderr
        assert image not in command.text("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    words = ("--storage-driver", "vfs", "pull", "-q", "--tls-verify=false", image)
    theirs = podman(*words, environment=command.environment)
    if DISABLED not in theirs.stderr:
        assert theirs.returncode in (0, 125)
        assert (theirs.returncode == 0) is (ours.returncode == 0), (ours.stderr, theirs.stderr)
    return ours.returncode == 0


def key_path(signed: Signed, name: str = "key.pub", **identity: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"type": "sigstoreSigned", "keyPath": str(signed.directory / name)}
    return {**rule, "signedIdentity": identity} if identity else rule


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("good:1", True),
        ("among:1", True),
        ("plain:1", False),
        ("otherkey:1", False),
        ("otherimage:1", False),
        ("othername:1", False),
        ("untagged:1", False),
        ("twice:1", False),
        ("more:1", False),
        ("notext:1", False),
        ("altered:1", False),
        ("unbased:1", False),
    ],
)
def test_one_key(shared_rcontain: Rcontain, signed: Signed, name: str, accepted: bool) -> None:
    configure(shared_rcontain, signed, key_path(signed))
    assert verdict(shared_rcontain, signed, name) is accepted


def test_where_keys_and_signatures_are(shared_rcontain: Rcontain, signed: Signed) -> None:
    data = base64.b64encode((signed.directory / "key.pub").read_bytes()).decode()
    rule = {"type": "sigstoreSigned", "keyData": data}
    configure(shared_rcontain, signed, rule)
    assert verdict(shared_rcontain, signed, "good:1")
    assert verdict(shared_rcontain, signed, f"good@{signed.digests['good']}")
    shared_rcontain("rmi", "-f", f"{signed.address}/good:1", check=False)
    shared_rcontain("rmi", "-f", f"{signed.address}/good@{signed.digests['good']}", check=False)
    configure(shared_rcontain, signed, rule, attachments=False)
    assert not verdict(shared_rcontain, signed, "good:1")


@pytest.mark.parametrize("kind", ["p384", "ed25519", "rsa2048"])
def test_other_kinds_of_keys(shared_rcontain: Rcontain, signed: Signed, kind: str) -> None:
    configure(shared_rcontain, signed, key_path(signed, f"{kind}.pub"))
    assert verdict(shared_rcontain, signed, f"{kind}:1")


@pytest.mark.parametrize(
    ("identity", "name", "accepted"),
    [
        ({"type": "matchRepository"}, "untagged:1", True),
        ({"type": "matchRepository"}, "othername:1", False),
        ({"type": "matchExact"}, "good:1", True),
        ({"type": "exactRepository", "dockerRepository": "ADDRESS/good"}, "othername:1", True),
        ({"type": "exactReference", "dockerReference": "ADDRESS/good:1"}, "othername:1", True),
        ({"type": "exactReference", "dockerReference": "ADDRESS/good:2"}, "othername:1", False),
        ({"type": "remapIdentity", "prefix": "ADDRESS/othername", "signedPrefix": "ADDRESS/good"}, "othername:1", True),
    ],
)
def test_identities(rcontain: Rcontain, signed: Signed, identity: dict[str, str], name: str, accepted: bool) -> None:
    identity = {key: value.replace("ADDRESS", signed.address) for key, value in identity.items()}
    configure(rcontain, signed, key_path(signed, **identity))
    assert verdict(rcontain, signed, name) is accepted


def test_other_rules(rcontain: Rcontain, signed: Signed) -> None:
    gpg = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(signed.directory / "key.pub")}
    for rules in ([REJECT], [ACCEPT, REJECT], [gpg], [key_path(signed), ACCEPT], [{**ACCEPT, "x": 1}], []):
        configure(rcontain, signed, *rules)
        assert not verdict(rcontain, signed, "plain:1"), rules
    configure(rcontain, signed, ACCEPT, ACCEPT)
    assert verdict(rcontain, signed, "plain:1")


def test_nothing_is_fetched_of_what_is_refused(rcontain: Rcontain, signed: Signed) -> None:
    configure(rcontain, signed, key_path(signed))
    rcontain("pull", f"{signed.address}/plain:1", check=False)
    done = rcontain("run", "--rm", f"{signed.address}/plain:1", "true", check=False)
    assert done.returncode == 125 and b"there is no signature" in done.stderr
    blobs = rcontain.data / "rcontain/blobs/sha256"
    assert not blobs.exists() or not list(blobs.iterdir())
