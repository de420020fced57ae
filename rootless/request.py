"""What passes between the client and a session, over one unix stream socket.

Client to session: one request (4-byte length, NUL-separated fields, four descriptors: stdin, stdout, stderr and the
working directory), then messages of two bytes: a kind and a value. Session to client: messages of two bytes. OUTSIDE
and DONE are followed by a text: 4-byte length, bytes.

Imported by the client, so: nothing but built-in modules.
"""

from __future__ import annotations

MAGIC = b"rcontain1"

# client -> session
SIGNAL = b"S"  # value: the signal's number
WINDOW = b"W"  # value: unused; the terminal's size has changed
DONE = b"D"  # value: the exit status of what OUTSIDE asked for; a text follows, what it had to say

# session -> client
ACCEPTED = b"A"  # the request was read; from here on it must not be sent again
RETRY = b"R"  # another engine is starting; connect to that one
TERMINAL = b"T"  # the session will change the terminal's settings; restore them at the end
OUTSIDE = b"O"  # value: unused; a text follows, NUL-separated words for outside.run; DONE answers
EXIT = b"X"  # value: the exit code; the last message

LIMITS = 16  # RLIMIT_CPU ... RLIMIT_RTTIME, getrlimit(2)


class Request:
    """One command: `limits` are (soft, hard) by number, `fds` are stdin, stdout, stderr and the working directory."""

    __slots__ = ("argv", "cwd", "environment", "fds", "limits", "nice", "umask")

    def __init__(
        self,
        argv: list[bytes],
        cwd: bytes,
        environment: list[bytes],
        umask: int,
        nice: int,
        limits: list[tuple[int, int]],
        fds: list[int],
    ) -> None:
        self.argv = argv
        self.cwd = cwd
        self.environment = environment
        self.umask = umask
        self.nice = nice
        self.limits = limits
        self.fds = fds

    def to_bytes(self) -> bytes:
        fields = [MAGIC, b"%d" % self.umask, b"%d" % self.nice, self.cwd, b"%d" % len(self.argv)]
        fields += [b"%d:%d" % pair for pair in self.limits]
        fields += self.argv
        fields += self.environment
        body = b"\0".join(fields)
        return len(body).to_bytes(4, "little") + body

    @classmethod
    def parse(cls, body: bytes, fds: list[int]) -> Request:
        """Raises ValueError when `body` is not a request."""
        fields = body.split(b"\0")
        if len(fields) < 5 + LIMITS or fields[0] != MAGIC or len(fds) != 4:
            raise ValueError("not a request of this version")
        count = int(fields[4])
        rest = fields[5 + LIMITS :]
        if not 0 <= count <= len(rest):
            raise ValueError("not a request of this version")
        limits = []
        for field in fields[5 : 5 + LIMITS]:
            soft, hard = field.split(b":")
            limits.append((int(soft), int(hard)))
        return cls(rest[:count], fields[3], rest[count:], int(fields[1]), int(fields[2]), limits, fds)
