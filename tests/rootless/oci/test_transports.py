"""Places of images as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.oci.transports import Place, Transport, parse


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("busybox", Place(Transport.DOCKER, "", "busybox")),
        ("busybox:1.36", Place(Transport.DOCKER, "", "busybox:1.36")),
        ("localhost:5000/a/b:c", Place(Transport.DOCKER, "", "localhost:5000/a/b:c")),
        ("docker://quay.io/a/b", Place(Transport.DOCKER, "", "quay.io/a/b")),
        ("oci:dir", Place(Transport.OCI, "dir", "")),
        ("oci:/a/dir:tag", Place(Transport.OCI, "/a/dir", "tag")),
        ("oci:/a/dir:docker.io/library/x:tag", Place(Transport.OCI, "/a/dir", "docker.io/library/x:tag")),
        ("oci:/a/dir:@2", Place(Transport.OCI, "/a/dir", "", 2)),
        ("oci-archive:a.tar:x", Place(Transport.OCI_ARCHIVE, "a.tar", "x")),
        ("docker-archive:a.tar:busybox:latest", Place(Transport.DOCKER_ARCHIVE, "a.tar", "busybox:latest")),
        ("docker-archive:a.tar:@0", Place(Transport.DOCKER_ARCHIVE, "a.tar", "", 0)),
        ("dir:/a:b", Place(Transport.DIR, "/a:b", "")),
        ("sif:latest", Place(Transport.DOCKER, "", "sif:latest")),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse(text) == place
    assert parse(str(place)) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("containers-storage:x", "store of Podman"),
        ("containers-storage:[overlay@/a]x", "store of Podman"),
        ("docker-daemon:x:latest", "Docker's own store"),
        ("ostree:/a", "ostree: is not known"),
        ("ftp://host/x", "ftp: is not known"),
        ("https://quay.io/a/b", "is a URL.*quay.io/a/b"),
        ("docker://", "lacks the name"),
        ("oci:", "path of a directory"),
        ("oci-archive::tag", "path of a file"),
        ("dir:", "path of a directory"),
        ("oci:x:@first", "not a position"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(text)


def test_relative_paths() -> None:
    assert str(parse("oci:a/../b:x").at("/home/me")) == "oci:/home/me/b:x"
    assert parse("dir:/abs").at("/home") == parse("dir:/abs")
    assert parse("busybox").at("/home") == parse("busybox")


@given(st.text(max_size=60) | st.from_regex(r"(oci|oci-archive|docker-archive|dir|docker):.{0,30}", fullmatch=True))
def test_any_text(text: str) -> None:
    """A place, which reads back as itself, or one kind of error."""
    try:
        place = parse(text)
    except UsageError:
        return
    if place.reference or place.path:
        assert parse(str(place)) == place
