"""No process outlives the one it works for: a mark in the environment finds an engine's processes, and a watch ends them.

An engine core holds its GPU's memory until it ends, and does not notice that the process it answers to was killed. Run as
a script (``orphans.py MARK``) this is the watch: it waits for the end of its standard input, which comes with the end of its
parent, and then kills every process that bears the mark. Standard library only, so that it costs little.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "ALIGNRAY_ENGINE_MARK"
ROUNDS, ROUND_S = 20, 0.25


def marked(mark: str) -> list[int]:
    """Ids of this user's processes, but not this one, that were started with the mark in their environment."""
    line = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            if line in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # gone, or somebody else's
            continue
    return found


def kill(mark: str) -> int:
    """SIGKILL all that bear the mark, until none is left; how many there were."""
    killed: set[int] = set()
    for _ in range(ROUNDS):
        left = marked(mark)  # one that is being started may show up late; one that is dead but not reaped shows no environment
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(ROUND_S)
    return len(killed)


def watch(mark: str) -> subprocess.Popen[bytes]:
    """A process that kills all that bear the mark when this process ends, however it ends. Kill it to call it off."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    command = [sys.executable, "-S", "-E", "-P", str(Path(__file__).resolve()), mark]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    for _ in range(3):  # a core that is just starting its workers may leave one more
        kill(sys.argv[1])
        time.sleep(1)
