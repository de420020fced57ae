"""The import map of `rootless/__init__.py`, held against the code, and the promise that tests mirror modules."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("rootless", "fuse", "netns")

# A room may import itself and what stands on a lower line; rooms on the same line never import each other.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"processes", "syscalls"}),
    frozenset({"settings"}),
    frozenset({"outside", "request"}),
    frozenset({"client"}),
    frozenset({"oci"}),
    frozenset({"image", "runtime"}),
    frozenset({"container"}),
    frozenset({"cli"}),
    frozenset({"session"}),
    frozenset({"forkserver"}),
    frozenset({"engine"}),
)
# Pure code decides and never waits: no I/O, clock, randomness or system call of its own.
IMPURE = frozenset(
    {"asyncio", "ctypes", "httpx", "multiprocessing", "random", "secrets", "select", "selectors", "shutil", "signal"}
    | {"socket", "ssl", "subprocess", "tempfile", "threading", "time", "trio", "urllib.request"}
)
PURE_ROOMS = ("rootless/oci", "netns/wire", "netns/tcp")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (CHECKOUT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = CHECKOUT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Each imported module in full, with its line; `from package import module` names the module."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if is_module(inner) else origin), node.lineno


def level(room: str) -> int:
    for number, rooms in enumerate(LEVELS):
        if room in rooms:
            return number
    raise AssertionError(f"rootless/{room} is not on the map: add it to LEVELS and to rootless/__init__.py")


def where(path: Path, line: int, name: str) -> str:
    return f"{path.relative_to(CHECKOUT)}:{line} imports {name}"


def test_rooms_import_only_what_is_below_them() -> None:
    wrong = []
    for path in sources("rootless"):
        room = module_name(path).split(".")[1] if "." in module_name(path) else ""
        if not room:
            continue
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "rootless" and len(parts) > 1 and parts[1] != room and level(parts[1]) >= level(room):
                wrong.append(where(path, line, name))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["fuse", "netns"])
def test_fuse_and_netns_know_nobody_else(package: str) -> None:
    others = set(PACKAGES) - {package}
    wrong = [
        where(path, line, name)
        for path in sources(package)
        for name, line in imports(path)
        if name.split(".")[0] in others
    ]
    assert not wrong, "\n".join(wrong)


def test_the_client_needs_only_the_standard_library() -> None:
    """Also through modules of ours that it imports: the client's start is the floor under every command."""
    wrong = []
    waiting, seen = [CHECKOUT / "rootless/client.py"], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name, line in imports(path):
            if name.split(".")[0] in PACKAGES:
                module = CHECKOUT.joinpath(*name.split("."))
                waiting.append(module / "__init__.py" if module.is_dir() else module.with_suffix(".py"))
            elif name.split(".")[0] not in sys.stdlib_module_names:
                wrong.append(where(path, line, name))
    assert not wrong, "\n".join(wrong)


def test_pure_rooms_do_not_wait_or_look_around() -> None:
    wrong = [
        where(path, line, name)
        for path in sources(*PURE_ROOMS)
        for name, line in imports(path)
        if name in IMPURE or name.split(".")[0] in IMPURE
    ]
    assert not wrong, "\n".join(wrong)


def test_pyfuse3_stays_in_one_file_of_fuse() -> None:
    users = {
        str(path.relative_to(CHECKOUT))
        for path in sources("rootless", "fuse", "netns")
        for name, _ in imports(path)
        if name.split(".")[0] == "pyfuse3"
    }
    assert all(path.startswith("fuse/") for path in users), users
    assert len(users) <= 2, f"one adapter speaks pyfuse3, and one process starts it: {users}"


def test_every_test_module_mirrors_a_source_module() -> None:
    """tests/fuse/test_merge.py is about fuse/merge.py; test_merge_limits.py may be, too.

    test_real_SUBJECT.py is about the package as a whole, on the real kernel.
    """
    astray = []
    for path in sources(*(f"tests/{package}" for package in PACKAGES)):
        if not path.name.startswith("test_") or path.name.startswith("test_real_"):
            continue
        folder = CHECKOUT / path.relative_to(CHECKOUT / "tests").parent
        words = path.stem.removeprefix("test_").split("_")
        names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
        if not any((folder / f"{name}.py").is_file() or (folder / name).is_dir() for name in names):
            astray.append(str(path.relative_to(CHECKOUT)))
    assert not astray, f"tests that mirror no module: {astray}"
