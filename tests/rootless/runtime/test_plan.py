"""Plans: pure, printable, in an order that the kernel accepts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.oci.runtime import Device, Linux, Mount, Namespace, NamespaceType, Process, Spec, User
from rootless.runtime import plan, steps
from rootless.runtime.idmap import IdMap, IdMaps, keep_id_maps, nomap_maps
from rootless.runtime.plan import HostFacts
from rootless.runtime.spec import default_spec
from rootless.runtime.steps import Plan, Program, Step
from rootless.syscalls import Clone, MountFlag

FACTS = HostFacts(last_capability=40, cgroup_mounted=True, can_set_groups=True)
IDS = IdMaps(IdMap.of((0, 0, 65537)), IdMap.of((0, 0, 65537)))
FILTER = Program(b"\0" * 8)


def made(change: dict[str, Any] | None = None, *, ids: IdMaps | None = IDS, **options: Any) -> Plan:
    spec = default_spec(args=("true",), env={}, ids=ids, **(change or {}))
    return plan.compile(spec, rootfs="/root/fs", facts=FACTS, ids=ids, seccomp=FILTER, **options)


def kinds(the_plan: Plan) -> list[type[Step]]:
    return [type(step) for step in (*the_plan.create, *the_plan.start)]


def test_it_prints_its_steps() -> None:
    text = str(made())
    assert text.startswith("create:\n    1 take the root filesystem /root/fs\n")
    assert "mount proc on /proc" in text and "\nstart:\n" in text and text.endswith("execute true")


def test_plans_are_values() -> None:
    assert made() == made()
    hash(made())


def test_sources_are_taken_before_becoming_root() -> None:
    order = kinds(made({"mounts": (Mount(destination="/x", type="bind", source="/home"),)}))
    become = order.index(steps.BecomeRoot)
    assert all(index < become for index, kind in enumerate(order) if kind in (steps.TakeTree, steps.AttachRoot))
    assert all(index > become for index, kind in enumerate(order) if kind in (steps.AttachTree, steps.MountFilesystem))


def test_the_filter_is_last_where_it_can_be() -> None:
    order = kinds(made({"no_new_privileges": True}))
    assert order[-2:] == [steps.Filter, steps.Execute]
    assert order.index(steps.DieWithParent) > order.index(steps.SetCapabilities)
    order = kinds(made())
    assert order[-4:] == [steps.Filter, steps.SetCapabilities, steps.DieWithParent, steps.Execute]
    become = next(step for step in made().create if isinstance(step, steps.Become))
    assert become.effective & 1 << 21, "loading the filter needs CAP_SYS_ADMIN"
    final = next(step for step in made().start if isinstance(step, steps.SetCapabilities))
    assert not final.permitted & 1 << 21


def test_without_a_user_namespace_propagation_is_cut() -> None:
    assert made(ids=None).create[0] == steps.Propagation(MountFlag.SLAVE | MountFlag.REC)
    assert steps.Propagation not in kinds(made())


def test_maps_without_root_or_tty_group() -> None:
    nobody = IdMaps(IdMap.of((1000, 0, 1)), IdMap.of((1000, 0, 1)))
    user = User(uid=1000, gid=1000, additional_gids=(7,))
    the_plan = plan.compile(
        default_spec(args=("true",), env={}, ids=IDS, user=user), rootfs="/r", facts=FACTS, ids=nobody, seccomp=None
    )
    assert next(step.groups for step in the_plan.create if isinstance(step, steps.Become)) == ()
    assert steps.BecomeRoot not in kinds(the_plan)
    pts = next(s for s in the_plan.create if isinstance(s, steps.MountFilesystem) and s.fstype == "devpts")
    assert "gid=" not in pts.data
    assert "gid=5" in str([s for s in made().create if isinstance(s, steps.MountFilesystem)])


def test_optional_steps() -> None:
    assert steps.Terminal in kinds(made({"terminal": True}))
    assert steps.RestrictRoot in kinds(made({"readonly_rootfs": True}))
    assert steps.DieWithParent not in kinds(made(die_with_parent=False))
    assert kinds(made(reaper=True))[-2:] == [steps.Reaper, steps.Execute]
    assert steps.Names not in kinds(made({"hostname": None}))
    order = kinds(made(make_cwd=True))
    assert order.index(steps.Directory) < order.index(steps.Become)


def test_a_bound_dev_is_left_alone() -> None:
    bound = Mount(destination="/dev", type="bind", source="/dev", options=("rbind",))
    assert steps.Devices not in kinds(made({"mounts": (bound,)}))


def test_a_devices_place_can_be_taken() -> None:
    bound = Mount(destination="/dev/null", type="bind", source="/some/file")
    devices = next(s for s in made({"mounts": (bound,)}).create if isinstance(s, steps.Devices))
    assert "dev/null" not in dict(devices.nodes)
    extra = made({"devices": (Device(type="c", path="/dev/fuse"), Device(type="c", path="/dev/null"))})
    assert [s.path for s in extra.create if isinstance(s, steps.Device)] == ["/dev/fuse"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sysctl": {"kernel.core_pattern": "x"}}, "not one of a container's own"),
        ({"sysctl": {"net.x": "1"}, "new": frozenset({NamespaceType.MOUNT})}, "would change the host"),
        ({"sysctl": {"net/../kernel/core_pattern": "x"}}, "not one of a container's own"),
        ({"mounts": (Mount(destination="/x", type="bind"),)}, "has no source"),
        ({"new": frozenset({NamespaceType.PID})}, "without a mount namespace"),
        ({"cwd": "relative"}, "not absolute"),
        ({"user": User(uid=70000)}, "user id 70000"),
        ({"user": User(gid=70000)}, "group id 70000"),
    ],
)
def test_contradictions(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(change)


@pytest.mark.parametrize("process", [Process(), Process(args=("",)), Process(args=("x",), env=("=bad",))])
def test_bad_processes(process: Process) -> None:
    spec = Spec(process=process, linux=Linux(namespaces=(Namespace(type=NamespaceType.MOUNT),)))
    with pytest.raises(UsageError):
        plan.compile(spec, rootfs="/r", facts=FACTS)
    with pytest.raises(UsageError):
        plan.compile_exec(process, facts=FACTS)


def test_namespaces_to_make() -> None:
    linux = Linux(
        namespaces=(Namespace(type=NamespaceType.PID), Namespace(type=NamespaceType.NETWORK, path="/proc/1/ns/net"))
    )
    assert plan.new_namespaces(linux) == Clone.NEWPID


mounts_of_anybody = st.builds(
    Mount,
    destination=st.sampled_from(["/", "/a", "/a/b", "/dev", "/dev/shm", "/proc", "/sys", "../x", "/dev/null"]),
    type=st.sampled_from(["bind", "tmpfs", "proc", "sysfs", "cgroup", "mqueue", "devpts"]),
    source=st.sampled_from(["/", "/home", "tmpfs"]),
    options=st.lists(
        st.sampled_from(["ro", "rw", "rbind", "rprivate", "rro", "tmpcopyup", "size=1m", "gid=5", "noexec"]), max_size=4
    ).map(tuple),
)


@given(
    st.lists(mounts_of_anybody, max_size=6), st.booleans(), st.booleans(), st.sampled_from(["default", "keep", "none"])
)
def test_any_plan_attaches_what_it_takes(mounts: list[Mount], terminal: bool, readonly: bool, mapping: str) -> None:
    around = IdMaps(IdMap.of((0, 1001, 1), (1, 100000, 65536)), IdMap.of((0, 1001, 1), (1, 100000, 65536)))
    ids = {"default": IDS, "keep": keep_id_maps(around, 1001, 1001), "none": nomap_maps(around)}[mapping]
    spec = default_spec(
        args=("x",), env={}, ids=ids, mounts=mounts, terminal=terminal, readonly_rootfs=readonly, hostname="h"
    )
    the_plan = plan.compile(spec, rootfs="/r", facts=FACTS, ids=ids, seccomp=FILTER)
    taken = [step.slot for step in the_plan.create if isinstance(step, steps.TakeTree)]
    assert len(taken) == len(set(taken))
    used = {
        step.slot for step in the_plan.create if isinstance(step, steps.AttachTree | steps.AttachRoot | steps.Device)
    }
    for step in the_plan.create:
        if isinstance(step, steps.Devices):
            used |= {slot for _, slot in step.nodes}
        if isinstance(step, steps.Mask):
            used.add(step.null_slot)
    assert used <= set(taken)
    assert all(str(step) for step in (*the_plan.create, *the_plan.start))
    order = kinds(the_plan)
    assert order[-1] is steps.Execute and order.count(steps.Pivot) == 1
    restrict = [index for index, kind in enumerate(order) if kind is steps.RestrictRoot]
    assert all(index < order.index(steps.Pivot) for index in restrict) and bool(restrict) == readonly
    assert msgspec.json.encode(spec)
