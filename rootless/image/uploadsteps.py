"""The order of requests in which a blob gets into a registry (OCI distribution-spec, "Push"). Pure.

    BEGIN   POST /blobs/uploads/                 202 with a Location: an upload; 201: mounted from another repository
    SEND    PATCH <location>, a part of the blob 202 with a new Location and a Range of what the server has
    ASK     GET <location>                       204 with Location and Range: what has arrived after all
    FINISH  PUT <location>?digest=…              201; the whole blob is its body if it is small
    CHECK   HEAD /blobs/<digest>                 200: a FINISH without an answer has worked

What the server says it has decides where the next part starts, never what was sent. Docker's registry gives a new
Location with each answer and knows only the newest: where that is lost it says 404, and the upload begins again.
Its `Range: 0-0` may mean nothing or one byte, and is taken for nothing; a blob that is wrong for that reason is
refused at the end and sent once more. An upload is given up after ATTEMPTS failures without progress.
"""

from __future__ import annotations

import re
from enum import Enum

ATTEMPTS = 5
SMALL = 8 << 20
"""Bytes up to which a blob is sent in one request: sending it again is cheap."""
PART = 32 << 20
"""Bytes of one part. Proxies in front of registries refuse bodies of more than some 100 MB."""
PART_MIN = 1 << 20

_RANGE = re.compile(r"(?:bytes[= ])?0-([0-9]{1,19})")
_UNWELL = frozenset({408, 425, 429, 500, 502, 503, 504})


class Step(Enum):
    """What is to be done next."""

    BEGIN = "begin"
    SEND = "send"
    ASK = "ask"
    FINISH = "finish"
    CHECK = "check"
    DONE = "done"


class UploadSteps:
    """One blob on its way. `step` says what to do; `answered` and `broke_off` say what came of it.

    `given_up` is true once there is no sense in going on; `refused` if the last answer was a refusal, not an accident.
    """

    def __init__(self, size: int, *, attempts: int = ATTEMPTS, small: int = SMALL, part: int = PART) -> None:
        self.size = size
        self.step = Step.BEGIN
        self.location = ""
        self.offset = 0
        self.failures = 0
        self.refused = False
        self.mounted = False
        self._attempts = attempts
        self._part = part
        self._whole = size <= small
        self._best = 0

    @property
    def given_up(self) -> bool:
        return self.refused or self.failures >= self._attempts

    @property
    def end(self) -> int:
        """Where the part that begins at `offset` ends."""
        return self.size if self._whole else min(self.size, self.offset + self._part)

    def answered(self, status: int, *, location: str = "", range_: str = "", part_min: str = "") -> None:
        """The answer to the step: its status, and its headers Location, Range and OCI-Chunk-Min-Length."""
        if status in (401, 403):
            self.refused = True
        elif status in _UNWELL:
            self.broke_off()
        elif self.step is Step.BEGIN:
            self._begun(status, location, part_min)
        elif self.step is Step.SEND:
            self._sent(status, location, range_)
        elif self.step is Step.ASK:
            self._told(status, location, range_)
        elif self.step is Step.FINISH:
            self._finished(status)
        elif status == 200:
            self.step = Step.DONE
        else:
            self.step = Step.BEGIN if self._whole else Step.ASK

    def broke_off(self) -> None:
        """The connection broke, or the server was unwell: whether the step was done is not known."""
        self.failures += 1
        if self.step is Step.FINISH:
            self.step = Step.CHECK
        elif self.step is Step.SEND:
            self.step = Step.ASK

    def forget(self) -> None:
        """The upload was cancelled; nothing of it counts."""
        self.step, self.location, self.offset = Step.BEGIN, "", 0

    def _begun(self, status: int, location: str, part_min: str) -> None:
        if status == 201:
            self.mounted = True
            self.step = Step.DONE
        elif status in (200, 202) and location:
            self.location = location
            self.offset = 0
            if part_min.isdigit() and len(part_min) < 12:
                self._part = max(self._part, int(part_min))
            self.step = Step.FINISH if self._whole else Step.SEND
        else:
            self.refused = True

    def _sent(self, status: int, location: str, range_: str) -> None:
        if status in (200, 201, 202, 204):
            end = self.end
            self._advance(location, _length(range_) if range_ else end)
        elif status == 413 and self._part > PART_MIN:
            self._part = max(PART_MIN, self._part // 2)
            self._again(Step.ASK)
        elif status == 416:
            self._again(Step.ASK)
        elif status == 404:
            self._again(Step.BEGIN)
        elif self.offset == 0 and not self._whole:
            self._whole = True  # a registry that knows no parts
            self._again(Step.BEGIN)
        else:
            self.refused = True

    def _told(self, status: int, location: str, range_: str) -> None:
        if status in (200, 202, 204):
            length = _length(range_) if range_ else self.offset
            self._advance(location, 0 if length == 1 else length)
        else:
            self.step = Step.BEGIN  # the failure that led here is counted

    def _finished(self, status: int) -> None:
        if status in (201, 202, 204, 200):
            self.step = Step.DONE
        elif status == 413 and self._whole and self.size > PART_MIN:
            self._whole = False
            self._part = max(PART_MIN, min(self._part, self.size) // 2)
            self._again(Step.BEGIN)
        elif status in (400, 404, 416):
            self._again(Step.BEGIN)
        else:
            self.refused = True

    def _advance(self, location: str, length: int) -> None:
        self.location = location or self.location
        if length > self.size:
            self._again(Step.BEGIN)
            return
        self.offset = length
        if length > self._best:
            self._best = length
            self.failures = 0
        elif self.step is Step.SEND:
            self.failures += 1
        self.step = Step.FINISH if length == self.size else Step.SEND

    def _again(self, step: Step) -> None:
        self.failures += 1
        self.step = step


def _length(range_: str) -> int:
    """The bytes in `0-N`; a header that says something else is taken for none."""
    match = _RANGE.fullmatch(range_.strip())
    return int(match[1]) + 1 if match else 0
