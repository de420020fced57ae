"""Digests."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.oci.digest import Digest


@given(st.binary(max_size=100), st.sampled_from(["sha256", "sha512"]))
def test_text_and_back(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert str(digest) == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert Digest.parse(str(digest)) == digest
    assert hash(Digest.parse(str(digest))) == hash(digest)
    assert pickle.loads(pickle.dumps(digest)) == copy.copy(digest) == digest
    digest.verify(data, "it")
    with pytest.raises(ImageError, match="it has digest"):
        digest.verify(data + b"x", "it")


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 32,
     "sha512:" + "0" * 64, "sha256:" + "0" * 64 + "\n", "../etc:" + "0" * 64, "sha256:../" + "0" * 61],
)  # fmt: skip
def test_malformed(text: str) -> None:
    with pytest.raises(ImageError):
        Digest.parse(text)


@given(st.text(max_size=200))
def test_any_text_is_a_digest_or_an_image_error(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except ImageError:
        return
    assert "/" not in digest.hex


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        Digest.of(b"").hex = "x"
