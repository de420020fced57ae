"""registries.d: where signatures are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import UsageError
from rootless.image.registriesd import scopes, uses_attachments
from rootless.oci.reference import Reference


def test_scopes() -> None:
    assert list(scopes(Reference.parse("a.b.example:5000/c/d:1"))) == [
        "a.b.example:5000/c/d:1",
        "a.b.example:5000/c/d",
        "a.b.example:5000/c",
        "a.b.example:5000",
        "*.b.example",
        "*.example",
    ]
    digest = "sha256:" + "a" * 64
    assert next(scopes(Reference.parse(f"busybox:1@{digest}"))) == f"docker.io/library/busybox@{digest}"


def put(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)


def test_the_most_specific_that_says_it_counts(tmp_path: Path) -> None:
    environ, system = {"HOME": str(tmp_path)}, str(tmp_path / "etc")

    def used(text: str) -> bool:
        return uses_attachments(Reference.parse(text), environ, system)

    assert not used("a.example/b")
    put(
        tmp_path / "etc/registries.d",
        default="default-docker:\n  use-sigstore-attachments: true\n  lookaside: file:///x\n",
        a="docker:\n  a.example:\n    use-sigstore-attachments: false\n  a.example/b:\n    lookaside: https://x\n",
        b="docker:\n  '*.example': {use-sigstore-attachments: no}\n  a.example/c:1: {use-sigstore-attachments: on}\n",
        empty="",
    )
    assert used("b.org/x")
    assert not used("a.example/b") and not used("z.example/b")
    assert used("a.example/c:1") and not used("a.example/c:2")
    put(tmp_path / ".config/containers/registries.d", own="docker:\n  z.example:\n    use-sigstore-attachments: true\n")
    assert used("z.example/b") and not used("b.org/x")  # the machine's directory does not count any more


@pytest.mark.parametrize(
    "text",
    [
        "- a",
        "a: [",
        "docker: 1",
        "docker: {a: 1}",
        "docker: {a: {use-sigstore-attachments: 'yes'}}",
        "docker: {a: {use-sigstore-attachments: true, use-sigstore-attachments: false}}",
        "docker: {a: {}, a: {}}",
        "docker: {1: {}}",
        "default-docker: true",
        "docker: &x {a: *x}",
        "x: !!python/object/apply:os.system ['true']",
        "\x00",
        "[" * 10_000,
    ],
)
def test_malformed(text: str, tmp_path: Path) -> None:
    put(tmp_path / "etc/registries.d", x=text)
    with pytest.raises(UsageError, match=r"x\.yaml is malformed"):
        uses_attachments(Reference.parse("a"), {}, str(tmp_path / "etc"))


def test_twice_in_two_files(tmp_path: Path) -> None:
    for text in ("docker: {a.example: {}}", "default-docker: {}"):
        put(tmp_path / "etc/registries.d", x=text, y=text)
        with pytest.raises(UsageError, match="in another file"):
            uses_attachments(Reference.parse("a"), {}, str(tmp_path / "etc"))
