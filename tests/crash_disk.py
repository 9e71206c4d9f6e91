# SPDX-License-Identifier: Apache-2.0
"""A disk that fails, or whose process dies or loses power, at any of its calls."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from gpucodec.checkpoint.storage.local import Disk, Local


class Kill(BaseException):
    """The process ends here: nothing after it reaches the disk."""


class Journal(Disk):
    """A disk that counts its calls, and fails or dies at one of them.

    It keeps what a loss of power would leave: a file has its contents once it was synced (before,
    any prefix or nothing), a name exists once its folder was synced.
    """

    def __init__(self, stop_at=None, how="fail"):
        self.stop_at = stop_at
        self.how = how
        self.calls = []
        self.dead = False
        self.lock = threading.Lock()
        self.volatile = {}  # files that were written and not synced: contents
        self.undo = []  # changes of names that were not synced: folder, what takes them back

    def step(self, *arguments):
        with self.lock:  # files are synced from many threads
            self._step(*arguments)

    def _step(self, call, path, effect, partial=None):
        if self.dead:
            raise Kill
        self.calls.append((call, path))
        if self.stop_at == len(self.calls) - 1:
            if self.how == "fail":
                raise OSError(28, "No space left on device", path)
            if self.how == "torn" and partial is not None:
                partial()
            if self.how == "after":
                effect()
            self.dead = True
            raise Kill
        effect()

    def mkdir(self, path):
        def effect():
            super(Journal, self).mkdir(path)
            self.undo.append(
                (os.path.dirname(path), lambda: shutil.rmtree(path, ignore_errors=True))
            )

        self.step("mkdir", path, effect)

    def write(self, path, data):
        raw = bytes(memoryview(data).cast("B"))

        def effect(content=raw):
            if not os.path.exists(path):
                self.undo.append(
                    (os.path.dirname(path), lambda: Path(path).unlink(missing_ok=True))
                )
            super(Journal, self).write(path, content)
            self.volatile[path] = content

        self.step("write", path, effect, lambda: effect(raw[: len(raw) // 2]))

    def sync(self, path):
        def effect():
            super(Journal, self).sync(path)
            self.volatile.pop(path, None)
            self.undo = [one for one in self.undo if one[0] != path]

        self.step("sync", path, effect)

    def link(self, source, target):
        def effect():
            super(Journal, self).link(source, target)
            self.undo.append(
                (os.path.dirname(target), lambda: Path(target).unlink(missing_ok=True))
            )

        self.step("link", target, effect)

    def replace(self, source, target):
        def effect():
            old = Path(target).read_bytes() if os.path.exists(target) else None
            super(Journal, self).replace(source, target)

            def back():
                if old is not None:
                    Path(target).write_bytes(old)

            self.undo.append((os.path.dirname(target), back))

        self.step("replace", target, effect)

    def unlink(self, path):
        self.step("unlink", path, lambda: super(Journal, self).unlink(path))

    def rmdir(self, path):
        if os.listdir(path):
            raise OSError(39, "Directory not empty", path)
        self.step("rmdir", path, lambda: super(Journal, self).rmdir(path))

    def lose_power(self):
        """Take back whatever was not synced."""
        for path, content in self.volatile.items():
            if os.path.exists(path):
                Path(path).write_bytes(content[: len(content) // 3])
        for _, back in reversed(self.undo):
            back()


def local(root, disk):
    found = Local(str(root), disk)
    found.workers = 1  # the same order of calls every time
    return found
