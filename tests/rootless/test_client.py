"""The client: what it sends, how it is found again, what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless import client
from rootless.request import LIMITS, Request
from tests.kit.command import CHECKOUT

_FIELD = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b""))


@given(st.lists(_FIELD, max_size=5), _FIELD, st.lists(_FIELD, max_size=5), st.integers(0, 0o777), st.integers(-20, 19))
def test_a_request_arrives_as_it_was_sent(
    argv: list[bytes], cwd: bytes, environment: list[bytes], umask: int, nice: int
) -> None:
    limits = [(number, -1) for number in range(LIMITS)]
    sent = Request(argv, cwd, environment, umask, nice, limits, [0, 1, 2, 3]).to_bytes()
    assert int.from_bytes(sent[:4], "little") == len(sent) - 4
    got = Request.parse(sent[4:], [0, 1, 2, 3])
    assert (got.argv, got.cwd, got.environment, got.umask, got.nice, got.limits) == (
        argv,
        cwd,
        environment,
        umask,
        nice,
        limits,
    )


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"rcontain1", b"1", b"-1", b"1:1", b"x"]), max_size=30).map(b"\0".join)
)
def test_anything_else_is_refused_in_one_way(body: bytes) -> None:
    try:
        Request.parse(body, [0, 1, 2, 3])
    except ValueError:
        return


def test_descriptors_are_counted() -> None:
    sent = Request([b"x"], b"/", [], 0, 0, [(0, 0)] * LIMITS, []).to_bytes()
    with pytest.raises(ValueError, match="request"):
        Request.parse(sent[4:], [0, 1, 2])


def test_the_engines_name_says_where_and_what() -> None:
    name = client.engine_name()
    assert name == client.engine_name() and name.startswith("engine-") and len(name) < 60
    script = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from rootless import client; print(client.engine_name())"
    )
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); {script}"
    same, other = (
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.strip()
        for text in (script, limited)
    )
    assert same == name != other, "hard limits belong to the context: an engine could not exceed its own"


def test_it_imports_next_to_nothing() -> None:
    """Its start is the interpreter's own and little more."""
    script = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import rootless.client; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {
        "socket",
        "signal",
        "enum",
        "re",
        "subprocess",
        "trio",
        "click",
        "msgspec",
        "threading",
        "argparse",
    } & set(loaded)


def test_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert client.runtime_directory() == f"{tmp_path}/rcontain"
    for text in ("", "relative", "/no/such"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", text)
        assert client.runtime_directory() == f"/tmp/rcontain-{os.getuid()}"
