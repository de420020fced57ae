"""From a tar to an index: what an image means harm with is an ImageError or a layer like any other."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.index import Index
from rootless.errors import ImageError
from rootless.image.index import LayerIndex
from rootless.oci.tar import TarEntry, TarParser

EXAMPLES = int(os.environ.get("RCONTAIN_TEST_FUZZ", "1"))
"""How many times the usual number of examples."""


def member(kind: bytes, name: str, target: str, size: int, number: int, attributes: dict[str, str]) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uid, info.gid, info.mtime = kind, target, number, number, number - 5
    info.size = size if kind == tarfile.REGTYPE else 0
    info.pax_headers = attributes
    return info


names = st.sampled_from(
    ["a", "b/c", "../x", "/etc/passwd", "a/../../b", "n" * 256, ".wh.a", "b/.wh..wh..opq", "./", "é"]
)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"Z"])
attributes = st.dictionaries(
    st.sampled_from(["SCHILY.xattr.user.x", "mtime", "path", "GNU.sparse.map", "GNU.sparse.major", "size", "uid"]),
    st.sampled_from(["1", "-1.5", "../y", "0,5,9", "9" * 30, "a" * 300]),
    max_size=2,
)
members = st.builds(member, kinds, names, names, st.integers(0, 2000), st.integers(0, 2**32), attributes)


@settings(
    deadline=None,
    max_examples=150 * EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    infos=st.lists(members, max_size=5),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=4),
    cut=st.none() | st.integers(0),
    chunk=st.integers(1, 3000),
)
def test_any_tar_is_an_index_or_an_image_error(
    tmp_path: Path, infos: list[tarfile.TarInfo], flips: list[tuple[int, int]], cut: int | None, chunk: int
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    data = bytearray(file.getvalue())
    for at, bits in flips:
        data[at % min(len(data), 4096)] ^= bits
    if cut is not None:
        del data[cut % len(data) :]
    parser, index = TarParser(), LayerIndex()
    try:
        for at in range(0, len(data), chunk):
            for event in parser.feed(bytes(data[at : at + chunk])):
                assert isinstance(event, TarEntry)
                index.add(event)
        parser.close()
        index.write(str(tmp_path / "index"))
    except ImageError:
        return
    made = Index(str(tmp_path / "index"))
    made.verify()
    for entry in made.entries():
        assert not entry.path.startswith(b"/")
        assert not {b"..", b"."}.intersection(entry.path.split(b"/"))
    made.close()
