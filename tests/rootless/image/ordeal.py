"""What must stand any bytes: layers in both forms, documents, archives of images, and what users write. Used by
test_layer_hostile with hypothesis, and by contrib/fuzz/images with a fuzzer.

Each function ends normally or raises RcontainError; any other error is a bug.
"""

from __future__ import annotations

import io
import os
import tempfile

from fuse.errors import LayerError
from fuse.index import Index
from rootless.errors import ImageError, RcontainError
from rootless.image import dockerarchive, registriesconf, requirements, signatures
from rootless.image.compression import decompressor
from rootless.image.earlylinks import EarlyLinks
from rootless.image.extract import TreeExtractor
from rootless.image.index import LayerIndex
from rootless.image.members import Members
from rootless.image.removal import remove_tree
from rootless.oci import instructions, strict, transports
from rootless.oci.documents import Document, ExecutionConfig, encode, parse_config, parse_layout_index, parse_manifest
from rootless.oci.mediatype import Compression, MediaType
from rootless.oci.reference import Reference
from rootless.oci.tar import TarEntry, TarParser

BLOCK = 512


def with_checksums(raw: bytes) -> bytes:
    """Whatever looks like a header gets the checksum that lets it through."""
    blocks = bytearray(raw)
    for start in range(0, len(blocks) - BLOCK + 1, BLOCK):
        header = blocks[start : start + BLOCK]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(blocks)


def unpack(raw: bytes) -> bytes:
    """The bytes of a blob, unpacked as the first one says. Returns what came out."""
    kind = list(Compression)[raw[0] % len(Compression)] if raw else Compression.NONE
    stream = decompressor(kind)
    out = io.BytesIO()
    for start in range(1, len(raw), 700):
        for piece in stream.feed(raw[start : start + 700]):
            out.write(piece)
    stream.close()
    return out.getvalue()


def layer(raw: bytes, directory: str, *, trees: bool = True) -> None:
    """A layer's tar, as an index and, with `trees` (as root of a user namespace), as a tree below `directory`.

    The two must agree about whether it can be had at all; if it can, the index must be sound.
    """
    index = LayerIndex()
    path = os.path.join(directory, "tree")
    tree = TreeExtractor(path, squash=True) if trees else None
    try:
        failures = []
        for add in [index.add] + ([tree.add] if tree is not None else []):
            try:
                _feed(raw, EarlyLinks(add), tree if add != index.add else None)
                failures.append(None)
            except ImageError as error:
                failures.append(error)
        if failures[0] is None:
            if tree is not None and failures[1] is None:
                tree.finish()
            file = os.path.join(directory, "index")
            index.write(file)
            read = Index(file)
            try:
                read.verify()
            except LayerError as error:
                raise AssertionError(f"an index of ours is damaged: {error}") from error
            finally:
                read.close()
                os.unlink(file)
    finally:
        if tree is not None:
            tree.close()
            remove_tree(path)


def _feed(raw: bytes, links: EarlyLinks, tree: TreeExtractor | None) -> None:
    parser = TarParser(data=tree is not None)
    for start in range(0, len(raw), 1000):
        for event in parser.feed(raw[start : start + 1000]):
            if isinstance(event, TarEntry):
                links.add(event)
            elif tree is not None:
                tree.write(event)
    parser.close()
    links.finish()


def document(raw: bytes) -> None:
    """What a registry or an archive sends as a manifest, an index, a configuration; a signature; a policy."""
    for media_type in (MediaType.OCI_MANIFEST, MediaType.OCI_INDEX, MediaType.DOCKER_MANIFEST):
        _tried(lambda kind: encode(parse_manifest(Document(kind, raw))), media_type)
    for work in (
        parse_config,
        parse_layout_index,
        strict.check_manifest,
        strict.check_config,
        signatures.parse_payload,
        lambda text: requirements.parse(text, "policy.json"),
        lambda text: registriesconf.parse(text, "registries.conf"),
        lambda text: signatures.load_key(text, "a key"),
    ):
        _tried(work, raw)


def text(raw: bytes) -> None:
    """What a user writes: names, places, instructions."""
    words = raw.decode("utf-8", "replace")
    for work in (Reference.parse, transports.parse):
        _tried(work, words)
    _tried(lambda lines: instructions.apply(ExecutionConfig(), lines), words.split("\n"))


def archive(raw: bytes, directory: str) -> None:
    """An archive of images."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(raw)
        file.flush()
        _tried(lambda path: dockerarchive.offers(Members(path), path), file.name)


def _tried(work: object, argument: object) -> None:
    try:
        work(argument)  # type: ignore[operator]
    except RcontainError as error:
        assert error.message
