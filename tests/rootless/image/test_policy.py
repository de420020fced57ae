"""Which images a policy accepts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import ImageError, UsageError
from rootless.image.policy import Policy
from rootless.image.source import Attachment, Identity
from rootless.oci.digest import Digest
from rootless.oci.reference import Reference
from tests.kit.signing import attachment, new_key, payload, public_pem

DIGEST = Digest.of(b"manifest")
ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}


class Home:
    """A user's configuration, and questions to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / ".config/containers"
        (self.config / "registries.d").mkdir(parents=True)
        self.asked = 0

    def policy(self, *default: dict[str, Any], **transports: Any) -> None:
        text = json.dumps({"default": list(default), "transports": transports})
        (self.config / "policy.json").write_text(text)

    def attachments(self, scope: str) -> None:
        text = f"docker:\n  {scope}:\n    use-sigstore-attachments: true\n"
        (self.config / "registries.d/x.yaml").write_text(text)

    async def refusal(self, what: str, *signatures: Attachment) -> str | None:
        transport, _, scope = what.rpartition(" ")
        reference = None if transport else Reference.parse(what)
        identity = Identity(transport or "docker", scope if transport else str(reference), reference)

        async def answer() -> Sequence[Attachment]:
            self.asked += 1
            return signatures

        try:
            await Policy.load({"HOME": str(self.path)}, str(self.path / "etc")).check(identity, DIGEST, answer)
        except ImageError as error:
            assert ".config/containers/policy.json" in error.message
            return str(error)
        return None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_without_a_policy_everything_is_accepted(home: Home) -> None:
    assert await home.refusal("example.com/a") is None
    assert await home.refusal("oci /tmp/a") is None


def test_a_malformed_policy_is_an_error(home: Home) -> None:
    (home.config / "policy.json").write_text("{}")
    with pytest.raises(UsageError, match="no 'default'"):
        Policy.load({"HOME": str(home.path)})


def test_the_machines_policy(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/policy.json").write_text('{"default": [], "x": 1}')
    with pytest.raises(UsageError, match=r"etc/policy\.json is malformed"):
        Policy.load({"HOME": str(tmp_path)}, str(tmp_path / "etc"))
    Policy.load({"HOME": str(tmp_path)})  # Debian's


async def test_the_most_specific_scope_counts(home: Home) -> None:
    home.policy(
        REJECT,
        docker={
            "example.com": [ACCEPT],
            "example.com/a": [REJECT],
            "example.com/a/b": [ACCEPT],
            "example.com/a/b:1": [REJECT],
            "*.wild.example": [ACCEPT],
            "docker.io/library": [ACCEPT],
        },
        oci={"": [ACCEPT], "/a": [REJECT], "/a/b/c": [ACCEPT]},
    )
    accepted = ["example.com/x", "example.com/a/b:2", "example.com/ab", "x.y.wild.example:5000/z", "busybox"]
    accepted += ["oci /b", "oci /ab", "oci /a/b/c", "oci /a/b/c/d"]
    refused = ["example.com/a", "example.com/a/c", "example.com/a/b:1", "wild.example/z", "quay.io/x", "docker.io/a/b"]
    refused += ["oci /a", "oci /a/b", "dir /b", "docker-archive /b"]
    for what in accepted:
        assert await home.refusal(what) is None, what
    for what in refused:
        assert "are rejected" in (await home.refusal(what) or ""), what


async def test_all_requirements_must_accept(home: Home) -> None:
    home.policy(ACCEPT, ACCEPT)
    assert await home.refusal("a") is None
    home.policy(ACCEPT, REJECT)
    assert await home.refusal("a")
    home.policy(ACCEPT, {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"})
    assert "asks for signedBy" in (await home.refusal("a") or "")
    assert not home.asked


async def test_signed_images(home: Home) -> None:
    key, other = new_key(), new_key("ed25519")
    pub = home.path / "k.pub"
    home.policy(ACCEPT, docker={"example.com": [{"type": "sigstoreSigned", "keyPath": str(pub)}]})
    with pytest.raises(UsageError, match=r"k\.pub, which .* trusts, does not exist"):
        await home.refusal("example.com/a:1")
    pub.write_bytes(public_pem(key))
    good = attachment(key, payload(str(DIGEST), "example.com/a:1"))
    assert "not looked for; set use-sigstore-attachments" in (await home.refusal("example.com/a:1", good) or "")
    assert not home.asked
    home.attachments("example.com")
    assert "there is no signature" in (await home.refusal("example.com/a:1") or "")
    assert await home.refusal("example.com/a:1", good) is None
    assert await home.refusal(f"example.com/a@{DIGEST}", good) is None
    assert await home.refusal("quay.io/a:1") is None  # another scope
    bad = [
        attachment(other, payload(str(DIGEST), "example.com/a:1")),
        attachment(key, payload(str(Digest.of(b"x")), "example.com/a:1")),
        attachment(key, payload(str(DIGEST), "example.com/a:2")),
        attachment(key, b"{}"),
        Attachment("application/vnd.dsse.envelope.v1+json", good.payload, good.annotations),
    ]
    assert "no signature of it is accepted" in (await home.refusal("example.com/a:1", *bad) or "")
    assert await home.refusal("example.com/a:1", *bad, good) is None  # one is enough
    assert "there is no signature" in (await home.refusal("example.com/a:1", bad[-1]) or "")


async def test_cosigns_names_without_a_tag(home: Home) -> None:
    key = new_key()
    (home.path / "k.pub").write_bytes(public_pem(key))
    home.attachments("example.com")
    rule = {"type": "sigstoreSigned", "keyPath": str(home.path / "k.pub")}
    signed = attachment(key, payload(str(DIGEST), "example.com/a"))
    home.policy(rule)
    assert "matchRepository accepts these" in (await home.refusal("example.com/a:1", signed) or "")
    home.policy({**rule, "signedIdentity": {"type": "matchRepository"}})
    assert await home.refusal("example.com/a:1", signed) is None


async def test_two_requirements_two_signatures(home: Home) -> None:
    keys = [new_key(), new_key("rsa2048")]
    for number, key in enumerate(keys):
        (home.path / f"{number}.pub").write_bytes(public_pem(key))
    home.attachments("example.com")
    home.policy(*({"type": "sigstoreSigned", "keyPath": str(home.path / f"{number}.pub")} for number in (0, 1)))
    first, second = (attachment(key, payload(str(DIGEST), "example.com/a:1")) for key in keys)
    assert await home.refusal("example.com/a:1", first)
    assert await home.refusal("example.com/a:1", second)
    assert await home.refusal("example.com/a:1", first, second) is None
    home.policy({"type": "sigstoreSigned", "keyPaths": [str(home.path / f"{number}.pub") for number in (0, 1)]})
    assert await home.refusal("example.com/a:1", second) is None


async def test_archives_have_no_name(home: Home) -> None:
    key = new_key()
    (home.path / "k.pub").write_bytes(public_pem(key))
    rule = {"type": "sigstoreSigned", "keyPath": str(home.path / "k.pub")}
    signed = attachment(key, payload(str(DIGEST), "example.com/a:1"))
    home.policy(rule)
    assert await home.refusal("dir /a", signed)
    home.policy({**rule, "signedIdentity": {"type": "exactRepository", "dockerRepository": "example.com/a"}})
    assert await home.refusal("dir /a", signed) is None
