"""The interpreter cannot be written from within a container, wherever it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rootless.runtime import interpreter

CHECKOUT = Path(__file__).resolve().parents[3]

SCRIPT = """
import os, sys
from rootless.runtime import interpreter
interpreter.protect()
print(os.readlink("/proc/self/exe"), sys.argv[1:], interpreter.is_protected())
try:
    os.open("/proc/self/exe", os.O_WRONLY)
    fd = os.open("/proc/self/exe", os.O_RDWR)
    os.write(fd, b"x")
except OSError as error:
    print("refused")
"""


def test_a_writable_interpreter_runs_from_a_sealed_copy(tmp_path: Path) -> None:
    program = tmp_path / "python3"
    shutil.copy(os.path.realpath("/proc/self/exe"), program)
    done = subprocess.run(
        [program, "-S", "-c", SCRIPT, "one"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONPATH": f"{CHECKOUT}:{':'.join(sys.path)}",
            "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        },
    )
    assert done.stdout == "/memfd:rcontain-interpreter (deleted) ['one'] True\nrefused\n", done.stderr


def test_the_systems_interpreter_stays() -> None:
    assert interpreter.is_protected() == (not os.access("/proc/self/exe", os.W_OK))
