"""How much one round trip carries, either way: bounded in bytes and in tasks, and less after a failure.

What is sent is cut by sizes that are known. The size of an answer is known only afterwards, so a reader asks for
as many entries as make an answer that fits, if they are as large as the last ones. A batch that failed is never
repeated as it was, because one that is too large for the link or for the time-out would fail for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

CALL_BYTES = 8 * 1024 * 1024  # of one call: 0.3 s of a link of 30 MB/s, a tenth of the time-out
ANSWER_BYTES = 16 * 1024 * 1024  # expected of one read
UNKNOWN_ENTRY_BYTES = 256 * 1024  # expected of an entry before anything was read
REMEMBERED_ENTRIES = 16  # how many entries of earlier reads weigh against those of the last one
FAILED_READ_PART = 8  # a read that failed is repeated with this part of its entries: its size is unknown
SCRIPT_ENTRIES = 10  # that a script reads at once: a recorded answer of 128 KiB is up to 786 kB of JSON
LEAST_PART = 4096  # what is sent shrinks down to this part of its bound, or to one item


class Sending:
    """How much a sender puts into its next call: at most `most` items, and at most `most_size` of what it measures
    them in (bytes, or tasks). One item that is larger than that goes alone.

    Halves when a call fails, and doubles when a call passes that could have carried more.
    """

    def __init__(self, most: int, most_size: int = CALL_BYTES) -> None:
        self._most, self._most_size = most, most_size
        self._items, self._size = most, most_size  # now
        self._cut_items = self._cut_size = 0  # of the last cut
        self._limited = False

    def cut(self, sizes: Iterable[int]) -> int:
        """How many of the first items, given by their sizes, make the next call; at least one if there is one."""
        number = total = 0
        self._limited = False
        for size in sizes:
            if number and (number >= self._items or total + size > self._size):
                self._limited = True
                break
            number += 1
            total += size
        self._cut_items, self._cut_size = number, total
        return number

    def passed(self) -> None:
        """The call of the last cut was answered."""
        if self._limited:
            self._items = min(self._most, self._items * 2)
            self._size = min(self._most_size, self._size * 2)

    def failed(self) -> None:
        """The call of the last cut was not answered, or not in time."""
        self._items = max(1, min(self._items, self._cut_items) // 2)
        self._size = max(self._most_size // LEAST_PART, 1, min(self._size, self._cut_size) // 2)


class Reading:
    """How many entries a reader asks for: at most `most`, and as many as are expected to be `answer_bytes`.

    The expected size of an entry rises at once to the mean of the last answer and falls slowly. After a failed
    read few entries are asked for, and twice as many after every full answer.
    """

    def __init__(self, most: int, answer_bytes: int = ANSWER_BYTES) -> None:
        self._most, self._answer_bytes = most, answer_bytes
        self._limit = most
        self._entry_bytes = UNKNOWN_ENTRY_BYTES
        self.size = 0  # bytes of the last answer

    @property
    def count(self) -> int:
        """How many entries the next answer may hold, over all streams."""
        return max(1, min(self._limit, self._answer_bytes // self._entry_bytes))

    def answered(self, entries: int, size: int, asked: int) -> None:
        """An answer held `entries` of `size` bytes altogether, where at least one stream was asked for `asked`."""
        self.size = size
        if not entries:
            return
        mean = size // entries
        remembered = self._entry_bytes * REMEMBERED_ENTRIES
        self._entry_bytes = max(1, mean, (remembered + size) // (REMEMBERED_ENTRIES + entries))
        if entries >= asked:
            self._limit = min(self._most, self._limit * 2)

    def failed(self, asked: int) -> None:
        """A read of up to `asked` entries was not answered, not in time, or its answer was too large."""
        self._limit = max(1, min(self.count, asked) // FAILED_READ_PART)
