"""What `docker save` and `podman save` write: `manifest.json`, a configuration and layers for each image.

Source: moby `image/spec/v1.2.md`, "Combined Image JSON + Filesystem Changeset Format". A layer is the uncompressed tar,
so its digest is known from the configuration; one that is compressed all the same is hashed first. The manifest is
made here, since the format has none.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from rootless.errors import ImageError
from rootless.image.conversion import Format, converted
from rootless.image.filesource import FileSource, chunks
from rootless.image.layouts import Offer, as_reference
from rootless.image.members import Files, read, read_at
from rootless.image.source import Identity, LocalBlob
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    LAYERS_MAX,
    MANIFEST_MAX,
    Descriptor,
    Document,
    Manifest,
    parse_config,
)
from rootless.oci.mediatype import MediaType
from rootless.oci.strict import check_config, check_members

MANIFEST = "manifest.json"
_MAGIC = ((b"\x1f\x8b\x08", MediaType.OCI_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", MediaType.OCI_LAYER_ZSTD))


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of manifest.json."""

    config: str
    layers: Annotated[tuple[str, ...], msgspec.Meta(max_length=LAYERS_MAX)] | None = None
    repo_tags: tuple[str, ...] | None = None


def is_docker_archive(files: Files) -> bool:
    """Whether there is a manifest.json."""
    return files.find(MANIFEST) is not None


def offers(files: Files, scope: str) -> list[Offer]:
    """The images of an archive, in order. Raises ImageError for what is malformed."""
    if files.find(MANIFEST) is None:
        hint = "it was written by Docker before 1.10" if files.find("repositories") is not None else None
        raise ImageError(f"{files.path} has no {MANIFEST}", hint=hint)
    raw = read(files, MANIFEST, MANIFEST_MAX)
    what = f"{MANIFEST} of {files.path}"
    check_members(raw, what)
    try:
        items = msgspec.json.decode(raw, type=list[_Item])
    except msgspec.DecodeError as error:
        raise ImageError(f"{what} is not valid: {str(error)[:200]}") from None
    return [_offer(files, item, Identity("docker-archive", scope)) for item in items]


def _offer(files: Files, item: _Item, identity: Identity) -> Offer:
    places: dict[Digest, str] = {}

    async def top() -> Document:
        config = read(files, item.config, CONFIG_MAX)
        check_config(config)
        diff_ids = parse_config(config).diff_ids
        names = item.layers or ()
        if len(names) != len(diff_ids):
            raise ImageError(
                f"{files.path} lists {len(names)} layers of an image whose configuration has {len(diff_ids)}"
            )
        layers = [await _layer(files, name, diff_id) for name, diff_id in zip(names, diff_ids, strict=True)]
        places.update({layer.digest: name for layer, name in zip(layers, names, strict=True)})
        described = Descriptor(MediaType.OCI_CONFIG, Digest.of(config), len(config))
        places[described.digest] = item.config
        return converted(Manifest(config=described, layers=tuple(layers)), Format.OCI)

    names = tuple(dict.fromkeys(name for tag in item.repo_tags or () if (name := as_reference(tag))))
    return Offer(
        FileSource(files, identity, top, places.get),
        tuple(name for name in names if name.digest is None),
        ", ".join(item.repo_tags or ()),
    )


async def _layer(files: Files, name: str, diff_id: Digest) -> Descriptor:
    found = files.find(name)
    if found is None:
        raise ImageError(f"{files.path} lacks the layer {name[:120]!r}")
    magic = read_at(found, 0, 4)
    for beginning, media_type in _MAGIC:
        if magic.startswith(beginning):
            return Descriptor(media_type, await _hash(found), found.size)
    return Descriptor(MediaType.OCI_LAYER, diff_id, found.size)


async def _hash(found: LocalBlob) -> Digest:
    hasher = Digest.of(b"").hasher()
    async for chunk in chunks(found):
        hasher.update(chunk)
    return Digest("sha256", hasher.hexdigest())
