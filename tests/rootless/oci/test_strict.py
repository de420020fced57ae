"""Documents that can be read in two ways."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.oci.strict import check_config, check_manifest, check_members, loads


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"layers": [], "layers": []}', "'layers' twice"),
        (b'{"layers": [], "Layers": []}', "'Layers', which is not 'layers'"),
        (b'{"Layers": []}', "'Layers'"),
        (b'{"config": {"digest": "a", "digest": "b"}}', "'digest' twice"),
        (b'{"layers": [{"Digest": "a"}]}', "'Digest', which is not 'digest'"),
        (b'{"manifests": [{"platform": {"os": "a", "os": "b"}}]}', "'os' twice"),
        (b'{"MediaType": "x"}', "mediaType"),
        (b'{"annotations": {"a": "1", "a": "2"}}', "'a' twice"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": \xff}', "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_manifests(raw: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        check_manifest(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"annotations": {"a": "1", "A": "2"}, "extra": {"x": 1, "X": 2}, "layers": [{"digest": "x"}]}',
        b'{"size": ' + b"9" * 10_000 + b"}",
        b'{"Digest": "the top has no such member"}',
    ],
)
def test_manifests_that_are_clear(raw: bytes) -> None:
    check_manifest(raw)


def test_configurations() -> None:
    check_config(b'{"os": "linux", "config": {"Labels": {"a": "", "A": ""}, "Cmd": ["x"]}, "container_config": {}}')
    for raw in (
        b'{"os": "linux", "OS": "windows"}',
        b'{"rootfs": {"diff_ids": [], "DIFF_IDS": []}}',
        b'{"config": {"Cmd": ["a"], "cmd": ["b"]}}',
        b'{"config": {"Labels": {"a": "", "a": ""}}}',
        b'{"history": [{"created": "", "created": ""}]}',
    ):
        with pytest.raises(ImageError):
            check_config(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(JSON)
def test_what_a_dict_can_hold_has_no_member_twice(value: object) -> None:
    check_members(json.dumps(value).encode(), "it")
    assert loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize("raw", [b'{"a": {"b": 1, "b": 1}}', b"[NaN]", b"-Infinity", b"[" * 200_000, b"\xff", b""])
def test_what_is_no_json_or_could_be_read_in_two_ways(raw: bytes) -> None:
    with pytest.raises(ValueError):
        loads(raw)


@given(st.binary(max_size=60))
def test_any_bytes(raw: bytes) -> None:
    try:
        check_manifest(raw)
    except ImageError:
        return
