"""The document that `inspect` shows of an image, with Podman's names."""

from __future__ import annotations

import msgspec

from ..container.timestamps import NEVER
from ..image.model import Image
from ..image.store import Store
from ..oci.documents import Healthcheck
from .container_document import Document, GraphDriver


class HealthSettings(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How the image's health is to be looked after; durations in nanoseconds."""

    test: tuple[str, ...] = ()
    start_period: int = 0
    start_interval: int = 0
    interval: int = 0
    timeout: int = 0
    retries: int = 0


class ImageSettings(Document, frozen=True, kw_only=True, omit_defaults=True):
    """The image's own defaults for its containers. What has a default here is left out where the image has none."""

    user: str
    exposed_ports: dict[str, dict[str, str]]
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    volumes: dict[str, dict[str, str]]
    working_dir: str
    labels: dict[str, str]
    stop_signal: str
    healthcheck: HealthSettings | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()


class RootFs(Document, frozen=True, kw_only=True):
    type: str
    layers: tuple[str, ...]


class HistoryLine(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False


class ImageDocument(Document, frozen=True, kw_only=True):
    id: str
    digest: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    parent: str = ""
    comment: str
    created: str
    config: ImageSettings
    version: str = ""
    author: str
    architecture: str
    variant: str
    os: str
    size: int
    virtual_size: int
    graph_driver: GraphDriver
    root_fs: RootFs = msgspec.field(name="RootFS")
    labels: dict[str, str]
    annotations: dict[str, str]
    manifest_type: str
    user: str
    history: tuple[HistoryLine, ...]
    names_history: tuple[str, ...]


def _health(health: Healthcheck | None) -> HealthSettings | None:
    if health is None:
        return None
    return HealthSettings(
        test=health.test or (),
        start_period=health.start_period,
        start_interval=health.start_interval,
        interval=health.interval,
        timeout=health.timeout,
        retries=health.retries,
    )


def describe_image(image: Image, store: Store) -> ImageDocument:
    config = image.config
    settings = config.config
    history = config.history or ()
    trees = [store.tree_path(layer) for layer in reversed(image.layers) if store.has_tree(layer)]
    indexed = all(store.has_index(layer) for layer in image.layers)
    extracted = len(trees) == len(image.layers)
    return ImageDocument(
        id=image.id,
        digest=str(image.digest),
        repo_tags=image.names,
        repo_digests=image.repo_digests,
        comment=history[-1].comment if history else "",
        created=config.created or NEVER,
        config=ImageSettings(
            user=settings.user,
            exposed_ports={name: {} for name in settings.exposed_ports or {}},
            env=settings.env or (),
            entrypoint=settings.entrypoint or (),
            cmd=settings.cmd or (),
            volumes={name: {} for name in settings.volumes or {}},
            working_dir=settings.working_dir,
            labels=settings.labels or {},
            stop_signal=settings.stop_signal,
            healthcheck=_health(settings.healthcheck),
            on_build=settings.on_build or (),
            shell=settings.shell or (),
        ),
        author=config.author,
        architecture=config.architecture,
        variant=config.variant,
        os=config.os,
        size=image.size,
        virtual_size=image.size,
        graph_driver=GraphDriver(
            name="overlay" if extracted and not indexed else "fuse",
            data={"LowerDir": ":".join(trees)} if extracted and trees else {},
        ),
        root_fs=RootFs(type="layers", layers=tuple(str(layer.diff_id) for layer in image.layers)),
        labels=settings.labels or {},
        annotations=image.manifest.annotations or {},
        manifest_type=image.manifest.media_type or "application/vnd.oci.image.manifest.v1+json",
        user=settings.user,
        history=tuple(
            HistoryLine(
                created=line.created or "",
                created_by=line.created_by,
                comment=line.comment,
                author=line.author,
                empty_layer=line.empty_layer,
            )
            for line in history
        ),
        names_history=image.names,
    )
