"""What an engine started does not outlive it, however it ends: seen on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

from alignray.engine import orphans

CHILD = ["sleep", "60"]
PARENT = """
import os, subprocess, sys, time
from alignray.engine import orphans
mark = sys.argv[1]
orphans.watch(mark)
os.environ[orphans.VARIABLE] = mark
subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], start_new_session=True)
print("up", flush=True)
time.sleep(60)
"""


def start_marked(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(CHILD, env={**os.environ, orphans.VARIABLE: mark})


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_only_processes_with_the_mark_are_killed() -> None:
    ours, others = uuid.uuid4().hex, uuid.uuid4().hex
    with start_marked(ours) as child, start_marked(others) as bystander:
        assert wait_until(lambda: orphans.marked(ours) == [child.pid])
        assert orphans.kill(ours) == 1
        assert child.wait(5) == -signal.SIGKILL and orphans.marked(ours) == []
        assert bystander.poll() is None and orphans.marked(others) == [bystander.pid]
        bystander.kill()


def test_children_die_when_their_parent_is_killed() -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen([sys.executable, "-c", PARENT, mark], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
        assert wait_until(lambda: len(orphans.marked(mark)) == 3)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: orphans.marked(mark) == [])


def test_a_watch_that_is_called_off_kills_nothing() -> None:
    mark = uuid.uuid4().hex
    watch = orphans.watch(mark)
    with start_marked(mark) as child:
        watch.kill()
        watch.wait()
        time.sleep(0.3)
        assert child.poll() is None
        child.kill()
