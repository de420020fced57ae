"""Small images as OCI layouts, built in Python so that tests decide about every byte.

`demo_layout` makes the image that most tests run: Debian's busybox-static in three layers, with owners, modes, a
setuid file, hard links, a whiteout and an opaque directory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

BUSYBOX = "/bin/busybox"
_APPLETS = """
sh ls cat echo id true false sleep env ps stat mkdir rm mv ln cp touch chmod chown wc head tail grep sed test kill pwd
hostname mount umount nc wget ping ip nslookup dd df date uname find tar sort seq printf readlink sync tty vi awk
httpd md5sum sha256sum tee tr xargs yes whoami cut ifconfig route netstat stty reset traceroute udhcpc watch which
"""
APPLETS = tuple(_APPLETS.split())
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def file(path: str, content: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0, **fields: Any) -> Member:
    """A regular file."""
    return _member(path, tarfile.REGTYPE, content, mode=mode, uid=uid, gid=gid, **fields)


def directory(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Member:
    """A directory."""
    return _member(path, tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)


def symlink(path: str, target: str) -> Member:
    """A symbolic link."""
    return _member(path, tarfile.SYMTYPE, mode=0o777, linkname=target)


def hardlink(path: str, target: str) -> Member:
    """One more name of a file of the same layer."""
    return _member(path, tarfile.LNKTYPE, mode=0o644, linkname=target)


def device(path: str, major: int, minor: int, *, kind: bytes = tarfile.CHRTYPE) -> Member:
    """A device node."""
    return _member(path, kind, mode=0o666, devmajor=major, devminor=minor)


def fifo(path: str) -> Member:
    """A named pipe."""
    return _member(path, tarfile.FIFOTYPE, mode=0o600)


Member = tuple[tarfile.TarInfo, bytes]


def _member(path: str, kind: bytes, content: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(path)
    info.type = kind
    info.mtime = 1_700_000_000
    info.size = len(content)
    for name, value in fields.items():
        setattr(info, name, value)
    return info, content


def tar(members: Iterable[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    """The archive of a layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@dataclass
class LayerBlob:
    """A layer as it is stored: `raw` tar and its packed form."""

    raw: bytes
    packed: bytes
    media_type: str

    @property
    def diff_id(self) -> str:
        return "sha256:" + hashlib.sha256(self.raw).hexdigest()


def pack(raw: bytes, compression: str = "gzip", *, docker: bool = False) -> LayerBlob:
    """A layer from its archive; `compression` is gzip, zstd or none."""
    packed = {
        "gzip": lambda: gzip.compress(raw, 1, mtime=0),
        "zstd": lambda: zstandard.compress(raw, 1),
        "none": lambda: raw,
    }[compression]()
    if docker:
        suffix = "" if compression == "none" else f".{compression}"
        return LayerBlob(raw, packed, f"{DOCKER}.image.rootfs.diff.tar{suffix}")
    suffix = "" if compression == "none" else f"+{compression}"
    return LayerBlob(raw, packed, f"{OCI}.layer.v1.tar{suffix}")


@dataclass
class Layout:
    """An OCI image layout under construction in `path`."""

    path: str
    manifests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        os.makedirs(f"{self.path}/blobs/sha256", exist_ok=True)
        with open(f"{self.path}/oci-layout", "w") as out:
            out.write('{"imageLayoutVersion":"1.0.0"}')
        self._write_index()

    def blob(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        name = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{name}", "wb") as out:
            out.write(data)
        return f"sha256:{name}"

    def image(
        self,
        name: str | None,
        layers: Sequence[LayerBlob],
        config: dict[str, Any] | None = None,
        *,
        docker: bool = False,
        architecture: str = "",
        variant: str = "",
        diff_ids: Sequence[str] | None = None,
        history: Sequence[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Add an image; returns its descriptor. With `name` None it is only for an `index`."""
        architecture = architecture or {"x86_64": "amd64", "aarch64": "arm64"}.get(
            os.uname().machine, os.uname().machine
        )
        document: dict[str, Any] = {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05.678901234Z",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or [layer.diff_id for layer in layers])},
            "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))]
            if history is None
            else list(history),
        }
        if variant:
            document["variant"] = variant
        raw = json.dumps(document).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json",
            "config": {
                "mediaType": f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json",
                "digest": self.blob(raw),
                "size": len(raw),
            },
            "layers": [
                {"mediaType": one.media_type, "digest": self.blob(one.packed), "size": len(one.packed)}
                for one in layers
            ],
        }
        return self.manifest(name, manifest, platform={"os": "linux", "architecture": architecture, "variant": variant})

    def index(self, name: str, descriptors: Sequence[dict[str, Any]], *, docker: bool = False) -> dict[str, Any]:
        """Add an index of images."""
        kind = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json"
        return self.manifest(name, {"schemaVersion": 2, "mediaType": kind, "manifests": list(descriptors)})

    def manifest(
        self, name: str | None, document: dict[str, Any], platform: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Add any manifest; returns its descriptor."""
        raw = json.dumps(document).encode()
        descriptor: dict[str, Any] = {"mediaType": document["mediaType"], "digest": self.blob(raw), "size": len(raw)}
        if platform:
            descriptor["platform"] = {key: value for key, value in platform.items() if value}
        if name is not None:
            self.manifests.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
            self._write_index()
        return descriptor

    def _write_index(self) -> None:
        with open(f"{self.path}/index.json", "w") as out:
            json.dump({"schemaVersion": 2, "manifests": self.manifests}, out)


def demo_layers() -> list[bytes]:
    """The three archives of the demo image, bottom first."""
    with open(BUSYBOX, "rb") as source:
        busybox = source.read()
    passwd = (
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    group = b"root:x:0:\nuser:x:1000:\nstaff:x:50:user\nnogroup:x:65534:\n"
    base = [
        directory("bin"),
        file("bin/busybox", busybox, mode=0o755),
        *(hardlink(f"bin/{applet}", "bin/busybox") for applet in APPLETS),
        *(directory(name) for name in ("dev", "proc", "sys", "run", "etc", "home", "usr", "usr/bin", "var", "srv")),
        directory("root", mode=0o700),
        directory("tmp", mode=0o1777),
        directory("home/user", mode=0o750, uid=1000, gid=1000),
        file("home/user/.profile", b"# user\n", uid=1000, gid=1000),
        file("etc/passwd", passwd),
        file("etc/group", group),
        file("etc/shadow", b"root:*:::::::\n", mode=0o640, gid=42),
        symlink("var/run", "/run"),
    ]
    middle = [
        directory("srv", mode=0o2775, gid=50),
        file("srv/removed", b"deleted by the next layer\n"),
        file("srv/kept", b"kept\n", uid=1000, gid=50),
        directory("srv/hidden"),
        file("srv/hidden/old", b"hidden by the next layer\n"),
        file("usr/bin/su-id", busybox, mode=0o4755),
    ]
    top = [
        file("srv/.wh.removed"),
        directory("srv/hidden"),
        file("srv/hidden/.wh..wh..opq"),
        file("srv/hidden/new", b"new\n"),
        file("etc/motd", b"three layers\n"),
    ]
    return [tar(base), tar(middle), tar(top)]


def demo_config() -> dict[str, Any]:
    """What the demo image runs."""
    return {"Env": ["PATH=/bin:/usr/bin", "DEMO=1"], "Cmd": ["/bin/sh"], "WorkingDir": "/", "Labels": {"demo": "yes"}}


def demo_layout(path: str, name: str = "demo") -> Layout:
    """The demo image as a layout: a gzip, a zstd and a plain layer."""
    layout = Layout(path)
    kinds = ("gzip", "zstd", "none")
    layers = [pack(raw, kind) for raw, kind in zip(demo_layers(), kinds, strict=True)]
    layout.image(name, layers, demo_config())
    return layout


def push(
    layout: str,
    name: str,
    registry: str,
    reference: str,
    *,
    credentials: str | None = None,
    every: bool = False,
    docker: bool = False,
) -> None:
    """Copy an image from a layout to a registry with skopeo, byte for byte.

    `every` takes all platforms of an index; `docker` makes it a Docker schema 2 image on the way.
    """
    command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
    command += ["--format", "v2s2"] if docker else ["--preserve-digests"]
    if every:
        command.append("--all")
    if credentials:
        command += ["--dest-creds", credentials]
    subprocess.run([*command, f"oci:{layout}:{name}", f"docker://{registry}/{reference}"], check=True)
