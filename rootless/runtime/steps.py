"""The steps that a plan is made of. Each is frozen data and says, as the object of "cannot ...", what it does.

A slot is a number for a mount tree that an early step takes and a later one attaches.
"""

from __future__ import annotations

import posixpath

import msgspec

from rootless.oci.runtime import Box, Hook, Rlimit
from rootless.syscalls import Clone, MountAttr, MountFlag, SeccompFlag


class Program(msgspec.Struct, frozen=True):
    """A filter ready to be loaded."""

    code: bytes
    flags: SeccompFlag = SeccompFlag.NONE

    def __repr__(self) -> str:
        return f"Program({len(self.code) // 8} instructions, {self.flags!r})"


class Step(msgspec.Struct, frozen=True, gc=False):
    """Base of all steps."""

    def __str__(self) -> str:
        raise NotImplementedError


class Propagation(Step, frozen=True):
    """mount(2): how mounts of the namespace around reach "/" and all below it."""

    flags: MountFlag

    def __str__(self) -> str:
        return f"set mount propagation to {self.flags!r}"


class TakeTree(Step, frozen=True):
    """Copy the mount tree at a path of the caller into a slot. An `optional` one that is missing leaves it empty."""

    slot: int
    path: str
    recursive: bool
    what: str = "bind source"
    optional: bool = False

    def __str__(self) -> str:
        return f"take the {self.what} {self.path}"


class BecomeRoot(Step, frozen=True):
    """Take uid and gid 0 of the user namespace, with all its capabilities."""

    def __str__(self) -> str:
        return "become root of the user namespace"


class AttachRoot(Step, frozen=True):
    """Make a slot's tree the new root, mounted over its own directory."""

    slot: int
    path: str

    def __str__(self) -> str:
        return f"mount the root filesystem {self.path}"


class MountFilesystem(Step, frozen=True):
    """mount(2) of a new filesystem at a path in the container.

    Where the kernel does not let this user namespace have one, `fallback` is a path of the caller to bind instead;
    `optional` says that the container can do without.
    """

    fstype: str
    source: str
    target: str
    flags: MountFlag = MountFlag.NONE
    data: str = ""
    copy_up: bool = False
    fallback: str | None = None
    optional: bool = False

    def __str__(self) -> str:
        return f"mount {self.fstype} on {self.target}"


class AttachTree(Step, frozen=True):
    """Attach a slot's tree at a path in the container; nothing, where the slot is empty."""

    slot: int
    target: str
    source: str
    set_: MountAttr = MountAttr.NONE
    clear: MountAttr = MountAttr.NONE
    set_recursive: MountAttr = MountAttr.NONE
    clear_recursive: MountAttr = MountAttr.NONE
    propagation: tuple[MountFlag, ...] = ()

    def __str__(self) -> str:
        return f"mount {self.source} on {self.target}"


class Devices(Step, frozen=True):
    """Attach the host's device nodes and make the usual links in /dev."""

    nodes: tuple[tuple[str, int], ...]
    links: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "set up /dev (" + " ".join(posixpath.basename(path) for path, _ in self.nodes) + ")"


class Device(Step, frozen=True):
    """Attach one more device node of the host; its mode and owner stay the host's."""

    slot: int
    path: str

    def __str__(self) -> str:
        return f"add the device {self.path}"


class Mask(Step, frozen=True):
    """Hide a path: a file under /dev/null, a directory under an empty read-only tmpfs. Missing ones stay missing."""

    path: str
    null_slot: int

    def __str__(self) -> str:
        return f"mask {self.path}"


class ReadOnly(Step, frozen=True):
    """Make a path and all mounted below it read-only. Missing ones stay missing."""

    path: str

    def __str__(self) -> str:
        return f"make {self.path} read-only"


class Sysctl(Step, frozen=True):
    """Write a kernel parameter of the new namespaces; sysctl(8)."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"set the kernel parameter {self.key} to {self.value!r}"


class Names(Step, frozen=True):
    """sethostname(2) and setdomainname(2)."""

    host: str | None
    domain: str | None

    def __str__(self) -> str:
        return f"set the host name to {self.host!r}"


class Loopback(Step, frozen=True):
    """Set the loopback interface of a new network namespace up, as runc and crun do."""

    def __str__(self) -> str:
        return "set the loopback interface up"


class Keyring(Step, frozen=True):
    """A session keyring of its own, so that the user's keys stay out of reach."""

    def __str__(self) -> str:
        return "make a session keyring"


class Session(Step, frozen=True):
    """setsid(2)."""

    def __str__(self) -> str:
        return "start a session"


class Terminal(Step, frozen=True):
    """Open a terminal of the container's own devpts, make it the controlling one and hand its master over."""

    ptmx: str
    console: str | None
    size: Box | None

    def __str__(self) -> str:
        return "open a terminal"


class RunHook(Step, frozen=True):
    """Run a hook in the container's namespaces, with the state on its standard input."""

    hook: Hook
    kind: str

    def __str__(self) -> str:
        return f"run the {self.kind} hook {self.hook.path}"


class RestrictRoot(Step, frozen=True):
    """Make the root filesystem's own mount read-only."""

    def __str__(self) -> str:
        return "make the root filesystem read-only"


class Pivot(Step, frozen=True):
    """pivot_root(2) into the new root, and let go of the old one."""

    propagation: MountFlag = MountFlag.NONE

    def __str__(self) -> str:
        return "enter the root filesystem"


class Unshare(Step, frozen=True):
    """unshare(2), for namespaces that must be made inside a joined one."""

    kinds: Clone

    def __str__(self) -> str:
        return f"make new namespaces ({self.kinds!r})"


class Limits(Step, frozen=True):
    """setrlimit(2)."""

    limits: tuple[Rlimit, ...]

    def __str__(self) -> str:
        return "set resource limits (" + " ".join(f"{one.type}={one.soft}:{one.hard}" for one in self.limits) + ")"


class OomScore(Step, frozen=True):
    """Write /proc/self/oom_score_adj."""

    value: int

    def __str__(self) -> str:
        return f"set oom_score_adj to {self.value}"


class BoundingSet(Step, frozen=True):
    """Drop capabilities from the bounding set."""

    drop: tuple[int, ...]

    def __str__(self) -> str:
        return f"drop {len(self.drop)} capabilities from the bounding set"


class Become(Step, frozen=True):
    """Take the user, the groups and the umask, keeping `capabilities` (a bit set) as permitted and effective."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    set_groups: bool
    umask: int | None
    effective: int
    permitted: int
    inheritable: int

    def __str__(self) -> str:
        return f"become user {self.uid}:{self.gid}"


class Directory(Step, frozen=True):
    """chdir(2) to the working directory, made where missing if `make` says so."""

    path: str
    make: bool

    def __str__(self) -> str:
        return f"enter the working directory {self.path}"


class LookUp(Step, frozen=True):
    """Find the command in $PATH."""

    name: str
    path: str

    def __str__(self) -> str:
        return f"find the command {self.name}"


class SetCapabilities(Step, frozen=True):
    """capset(2) and the ambient set."""

    effective: int
    permitted: int
    inheritable: int
    ambient: tuple[int, ...]

    def __str__(self) -> str:
        return f"set capabilities (permitted {self.permitted:#x}, effective {self.effective:#x})"


class NoNewPrivileges(Step, frozen=True):
    """prctl(2), PR_SET_NO_NEW_PRIVS."""

    def __str__(self) -> str:
        return "set no_new_privs"


class DieWithParent(Step, frozen=True):
    """prctl(2), PR_SET_PDEATHSIG SIGKILL. After the last change of credentials, which clears it."""

    def __str__(self) -> str:
        return "tie its life to the supervisor's"


class Filter(Step, frozen=True):
    """Load the seccomp filter."""

    program: Program

    def __str__(self) -> str:
        return "load the seccomp filter"


class Reaper(Step, frozen=True):
    """Fork: this process stays as pid 1, forwards signals and reaps; the child goes on."""

    def __str__(self) -> str:
        return "start the init process"


class Execute(Step, frozen=True):
    """execve(2) of what LookUp found."""

    args: tuple[str, ...]
    env: tuple[str, ...]

    def __str__(self) -> str:
        return f"execute {' '.join(self.args)}"


class Plan(msgspec.Struct, frozen=True):
    """What the child does: `create` up to the message Created, `start` once it is told to go on."""

    create: tuple[Step, ...]
    start: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"  {number:3} {step}" for number, step in enumerate((*self.create, *self.start), 1)]
        return "\n".join(["create:", *lines[: len(self.create)], "start:", *lines[len(self.create) :]])
