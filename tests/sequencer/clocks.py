"""Wall clocks of servers that a test steps: `lying_clock.c`, built once and preloaded."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("lying_clock.c")
NS_PER_SECOND = 1_000_000_000


class LyingClock:
    """One wall clock, shared by all processes that get `environment`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack("=q", 0))
        file.chmod(0o644)
        self.environment = {"LD_PRELOAD": str(library), "LYING_CLOCK_FILE": str(file)}

    def step(self, seconds: float) -> None:
        """The clock is off by so much from now on."""
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("=q", round(seconds * NS_PER_SECOND)))


class Clocks:
    """Makes clocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "lying_clock.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RuntimeError("a C compiler is needed")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SOURCE)],
            check=True,
        )

    def make(self, name: str) -> LyingClock:
        """A clock that tells the truth until it is stepped."""
        return LyingClock(self._library, self._folder / name)


@contextmanager
def clocks() -> Iterator[Clocks]:
    """In a folder that every server can read."""
    with tempfile.TemporaryDirectory(prefix="cm-clock-") as folder:
        Path(folder).chmod(0o755)
        yield Clocks(Path(folder))
