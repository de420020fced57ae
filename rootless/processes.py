"""What proc(5) says of processes, our own or others."""

from __future__ import annotations

from typing import NamedTuple


class ProcessState(NamedTuple):
    letter: str
    """`R`, `S`, `D`, `Z`, ...: field 3 of proc_pid_stat(5)."""
    start_time: int
    """In clock ticks since boot, field 22: a pid may be another process's later, but not with the same of these."""

    @property
    def ended(self) -> bool:
        """Also where nobody has waited for it yet: process 1 of a container or a virtual machine may take its time."""
        return self.letter in ("Z", "X")


def process_state(pid: int) -> ProcessState | None:
    """None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # what is in parentheses may have blanks in it
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessState(fields[0].decode(), int(fields[19]))
