"""References, with Docker's own examples (distribution/reference, normalize_test.go and reference_test.go)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.oci.digest import Digest
from rootless.oci.reference import Reference

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("quay.io/a/b:c", "quay.io/a/b:c", "quay.io/a/b:c"),
        ("quay.io/a", "quay.io/a:latest", "quay.io/a:latest"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"),
        ("127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("Host/a", "Host/a:latest", "Host/a:latest"),
        ("host:80/a", "host:80/a:latest", "host:80/a:latest"),
        ("xn--n3h.com/my__img-a.b", "xn--n3h.com/my__img-a.b:latest", "xn--n3h.com/my__img-a.b:latest"),
        (f"busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}", f"busybox@sha256:{HEX}"),
        (f"busybox:1@sha256:{HEX}", f"docker.io/library/busybox:1@sha256:{HEX}", f"busybox:1@sha256:{HEX}"),
        ("a/b/c/d/e", "docker.io/a/b/c/d/e:latest", "a/b/c/d/e:latest"),
        ("test:5000", "docker.io/library/test:5000", "test:5000"),
        (HEX[:63], f"docker.io/library/{HEX[:63]}:latest", f"{HEX[:63]}:latest"),
    ],
)
def test_what_a_name_means(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Busybox", "lower case"),
        ("user/App", "lower case"),
        ("a//b", "malformed"),
        ("/a", "malformed"),
        ("a/", "malformed"),
        ("-a", "malformed"),
        ("a-", "malformed"),
        ("a___b", "malformed"),
        ("a..b", "malformed"),
        ("a b", "malformed"),
        ("a:b c", "not a tag"),
        ("a:", "not a tag"),
        ("a:" + "t" * 129, "not a tag"),
        ("a:-x", "not a tag"),
        ("http://host/a", "malformed"),
        ("-host.com/a", "not a registry"),
        ("host:port/a", "not a registry"),
        ("[::1/a", "not a registry"),
        (HEX, "image ID"),
        ("a@sha256:123", "hexadecimal"),
        ("a@sha256:" + HEX.upper(), "hexadecimal"),
        ("a@md5:" + "0" * 32, "md5"),
        ("a@", "not a digest"),
        ("@sha256:" + HEX, "malformed"),
        ("a" * 256, "longer than 255"),
        ("a\n", "malformed"),
        ("a\x1b[31m", "malformed"),
    ],
)
def test_malformed_names_say_why(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        Reference.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("tool", "localhost/tool:latest"),
        ("team/tool:1", "localhost/team/tool:1"),
        ("docker.io/tool", "docker.io/library/tool:latest"),
        ("index.docker.io/tool", "docker.io/library/tool:latest"),
        ("quay.io/team/tool", "quay.io/team/tool:latest"),
    ],
)
def test_names_that_are_given_here_belong_to_localhost(text: str, full: str) -> None:
    assert str(Reference.parse_given(text)) == full


_component = st.from_regex(r"[a-z0-9]+(?:(?:\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
_registry = st.sampled_from(["docker.io", "localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000", "a.example.com"])
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
_digest = st.binary(max_size=3).map(Digest.of)


@given(_registry, st.lists(_component, min_size=1, max_size=4).map("/".join), st.none() | _tag, st.none() | _digest)
def test_text_and_back(registry: str, path: str, tag: str | None, digest: Digest | None) -> None:
    text = f"{registry}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert (reference.tag, reference.digest) == (tag if tag or digest else "latest", digest)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
