"""The config.json that the engine starts from, next to what Podman 5.4 writes."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.oci.runtime import Mount, NamespaceType, Spec, User, decode, encode
from rootless.runtime.idmap import IdMap, IdMaps
from rootless.runtime.spec import INIT, NEW, default_spec, environment

IDS = IdMaps(IdMap.of((0, 0, 65537)), IdMap.of((0, 0, 65537)))
SINGLE = IdMaps(IdMap.of((0, 0, 1)), IdMap.of((0, 0, 1)))


def made(**options: Any) -> Spec:
    return default_spec(**{"args": ("sleep", "1"), "env": {}, "ids": IDS, **options})


def places(spec: Spec) -> dict[str, Mount]:
    return {mount.destination: mount for mount in spec.mounts}


def test_it_is_valid_json_of_the_specification() -> None:
    spec = made(hostname="h", user=User(uid=5))
    assert decode(encode(spec), Spec) == spec


def test_podmans_defaults() -> None:
    spec = made(hostname="h")
    assert spec.process is not None
    assert [mount.destination for mount in spec.mounts] == [
        "/proc", "/dev", "/sys", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys/fs/cgroup",
    ]  # fmt: skip
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in spec.process.env
    assert "HOSTNAME=h" in spec.process.env
    assert {entry.type for entry in spec.linux.namespaces} == NEW
    assert spec.linux.sysctl == {"net.ipv4.ping_group_range": "0 0"}
    assert "/proc/kcore" in spec.linux.masked_paths and "/proc/sys" in spec.linux.readonly_paths


def test_group_5_only_where_mapped() -> None:
    assert "gid=5" in places(made())["/dev/pts"].options
    assert "gid=5" not in places(made(ids=SINGLE))["/dev/pts"].options


def test_shared_namespaces() -> None:
    spec = made(
        new=NEW - {NamespaceType.NETWORK, NamespaceType.PID, NamespaceType.IPC, NamespaceType.UTS}, hostname="h"
    )
    found = places(spec)
    assert found["/sys"].type == found["/proc"].type == found["/dev/mqueue"].type == "bind"
    assert "rro" in found["/sys"].options and "/sys/fs/cgroup" not in found
    assert spec.hostname is None and not spec.linux.sysctl


def test_joined_namespaces() -> None:
    alone = made(new=NEW - {NamespaceType.NETWORK}, joined={NamespaceType.NETWORK: "/x"})
    assert places(alone)["/sys"].type == "bind"
    both = {NamespaceType.NETWORK: "/x", NamespaceType.USER: "/y"}
    assert places(made(new=NEW - both.keys(), joined=both))["/sys"].type == "sysfs"
    network = alone.linux.namespace(NamespaceType.NETWORK)
    assert network is not None and network.path == "/x"


def test_without_a_user_namespace_of_its_own() -> None:
    spec = made(ids=None)
    assert spec.linux.namespace(NamespaceType.USER) is None and not spec.linux.uid_mappings


def test_privileged() -> None:
    spec = made(privileged=True)
    assert spec.process is not None and spec.process.capabilities is not None
    assert len(spec.process.capabilities.bounding) == 41
    assert not spec.linux.masked_paths and not spec.linux.readonly_paths and spec.linux.seccomp is None


def test_mounts_of_the_user() -> None:
    spec = made(mounts=[Mount(destination=place) for place in ("/a/b/c", "/a", "/dev/shm", "/a/b")])
    assert [mount.destination for mount in spec.mounts][-4:] == ["/a", "/dev/shm", "/a/b", "/a/b/c"]
    assert [mount.destination for mount in spec.mounts].count("/dev/shm") == 1
    bound = made(mounts=[Mount(destination="/dev", type="bind", source="/dev")])
    assert "/dev/pts" not in places(bound)


def test_masks() -> None:
    spec = made(unmask=("/proc/kcore", "/proc/sys"), mask=("/secret",))
    assert "/proc/kcore" not in spec.linux.masked_paths and "/secret" in spec.linux.masked_paths
    assert "/proc/sys" not in spec.linux.readonly_paths
    assert made(unmask=("all",)).linux.masked_paths == ()


def test_init() -> None:
    spec = made(init="/usr/bin/catatonit")
    assert spec.process is not None and spec.process.args == (INIT, "--", "sleep", "1")
    assert places(spec)[INIT].source == "/usr/bin/catatonit"


@pytest.mark.parametrize("env", [{"PATH": "/x", "A": "b=c"}, ["PATH=/x", "A=b=c"]])
def test_environment(env: Any) -> None:
    found = environment(env, "h", terminal=True)
    assert found == ("PATH=/x", "A=b=c", "TERM=xterm", "container=rcontain", "HOSTNAME=h")
