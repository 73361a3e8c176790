"""Programs of a model, run against tests without trusting them: own processes, namespaces, seccomp, limits, a nonce for success.

Standard library only. The inside is ``alignray/evals/code/jail.py``. What holds where everything is available (Linux 3.17 or later
on x86_64 or aarch64 that grants user namespaces to this user):

- its own session, PID, mount, network, IPC and host-name namespace: no network (not even loopback), no view of other processes;
- a root of its own: Python's and the system's libraries read-only, an empty /tmp in memory as working folder and HOME, nothing else;
- an empty environment, all capabilities dropped, no_new_privs, limits on CPU, memory, file size, open files and processes;
- seccomp: no sockets, no new processes, no exec, no signals, no ptrace, no mounts, no change of limits;
- the tests and the nonce that says they passed live in another process, which the program can neither read nor signal; only plain
  values come back from the program, so an object that claims to equal everything passes nothing.

Where namespaces or seccomp are refused the limits, the empty environment, no capabilities, the split in two processes and the wall
clock stay. A program can then write where this user can and end this user's processes; one that ends its own tests has "died".
``Isolation`` says what was active, and ``require="strict"`` runs nothing without all of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignray.errors import ConfigError, EngineError

Requirement = Literal["strict", "best"]
Status = Literal["passed", "failed", "timed_out", "died"]
"""died: the program's process, or that of its tests, was gone before the tests had ended."""

_JAIL = Path(__file__).with_name("code") / "jail.py"
_START_S = 20.0
"""Seconds for processes to start and end on a busy machine, on top of the program's own."""
_MAX_REPORT_BYTES = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    timeout_s: float = 3.0
    """Wall clock for the program and its tests, from the moment both are loaded; 3 s as in HumanEval's own harness."""
    memory_bytes: int = 1 << 30
    """Address space of each process."""
    file_bytes: int = 8 << 20
    """Largest file."""
    disk_bytes: int = 16 << 20
    """All files together, held in memory; without namespaces only ``file_bytes`` holds."""
    processes: int = 32
    """Processes and threads; without namespaces it counts all of this user's, and then threads may be refused."""


@dataclass(frozen=True)
class Isolation:
    """What was active around a program."""

    namespaces: bool = False
    """Own user, PID, network, IPC and mount namespace."""
    files: bool = False
    """Own root, read-only but for an empty temporary folder."""
    seccomp: bool = False
    notes: tuple[str, ...] = ()
    """Why something was not to be had."""

    @property
    def is_full(self) -> bool:
        return self.namespaces and self.files and self.seccomp


@dataclass(frozen=True)
class Outcome:
    """How a program did."""

    status: Status
    detail: str = ""
    """What went wrong first: "AssertionError: ...", at most a few hundred characters; written by the program in part, so untrusted."""
    isolation: Isolation = field(default_factory=Isolation)
    seconds: float = 0.0


def run_tests(
    program: str, checks: str, *, entry_point: str, support: str = "", call: str = "check", limits: Limits | None = None,
    require: Requirement = "best", attempt: tuple[str, ...] = ("namespaces", "seccomp"),
) -> Outcome:
    """Whether a program's function passes tests, in a sandbox. May be called from many threads and processes at once.

    Args:
        program: untrusted source of a module that defines ``entry_point``.
        checks: source of the tests. They see ``entry_point`` and, through ``call``, the candidate as their argument.
        support: trusted source that the tests' names come from (helpers of the task).
        call: function of ``checks`` that is called with the candidate; empty where the checks' own statements are the tests.
        require: "strict" raises where namespaces, an own root and seccomp cannot all be had.
        attempt: which walls to try.

    Raises:
        ConfigError: ``require`` is "strict" and a wall is missing.
        EngineError: the sandbox itself could not start; that says nothing about the program.
    """
    limits = limits or Limits()
    nonce = secrets.token_hex(16)
    folder = tempfile.mkdtemp(prefix="alignray-sandbox-")
    setup = {
        "candidate": program, "entry_point": entry_point, "root": folder, "libraries": _libraries(), "wanted": list(attempt),
        "strict": require == "strict", "timeout_s": limits.timeout_s, "limits": {
            "cpu_s": math.ceil(limits.timeout_s) + 1, "memory_bytes": limits.memory_bytes, "file_bytes": limits.file_bytes,
            "disk_bytes": limits.disk_bytes, "processes": limits.processes,
        },
    }
    tests = {"support": support, "checks": checks, "call": call, "nonce": nonce}
    try:
        report = _run([setup, tests], folder, limits.timeout_s + _START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _outcome(report, nonce, require)


def _outcome(report: dict[str, Any], nonce: str, require: Requirement) -> Outcome:
    if "facts" not in report:
        if report.get("overdue"):
            return Outcome("timed_out", "the sandbox did not start in time")
        raise EngineError(f"the sandbox ended without a word: {report.get('stderr') or 'no message'}; try it with require: best")
    if "broken" in report:
        raise EngineError(f"the sandbox could not start the program ({report['broken']}); run fewer at once")
    facts = report["facts"]
    isolation = Isolation(facts["namespaces"], facts["files"], facts["seccomp"], tuple(facts["notes"]))
    if report.get("refused"):
        missing = [name for name in ("namespaces", "files", "seccomp") if not facts[name]]
        raise ConfigError(
            f"the sandbox has no {', '.join(missing)} here ({'; '.join(isolation.notes) or 'the kernel refuses'}), and require is strict; "
            "allow unprivileged user namespaces, or set require: best on a machine that may be harmed",
        )
    if report.get("overdue"):
        return Outcome("timed_out", "the tests themselves did not end", isolation)
    if "seconds" not in report:
        return Outcome("died", "the process of the tests was ended", isolation)
    seconds = float(report["seconds"])
    if secrets.compare_digest(str(report.get("nonce", "")).encode(), nonce.encode()):
        return Outcome("passed", "", isolation, seconds)
    error, message = str(report.get("error", "")), str(report.get("message", ""))
    status: Status = {"TimedOut": "timed_out", "CandidateGone": "died"}.get(error, "failed")  # type: ignore[assignment]
    return Outcome(status, f"{error}: {message}" if message else error, isolation, seconds)


def _libraries() -> list[str]:
    """Folders that Python imports from and the loader needs; symbolic links of the root folder are kept as links."""
    own = [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/{sys.platlibdir}"]
    return [path for path in dict.fromkeys(("/usr/lib", "/usr/lib64", "/lib", "/lib64", *own)) if Path(path).is_dir()]


def _run(frames: list[dict[str, Any]], folder: str, timeout_s: float) -> dict[str, Any]:
    """What the jail reported until it ended; with "overdue" where it had to be killed, with "stderr" where it said nothing."""
    environment = {"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        # from a file and not a pipe: nothing blocks, whatever the jail reads
        for frame in frames:
            data = json.dumps(frame).encode()
            stdin.write(struct.pack("<I", len(data)) + data)
        stdin.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(_JAIL)], stdin=stdin, stdout=subprocess.PIPE, stderr=stderr,
            cwd=folder, env=environment, start_new_session=True, close_fds=True,
        )
        stdin.close()  # nobody finds the tests through this process either
        try:
            data, in_time = _read_all(process, timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        report = _report_of(data)
        if not in_time:
            return {**report, "overdue": True}
        return report or {"stderr": _tail(stderr)}


def _read_all(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bool]:
    """What the jail wrote until it closed its end, bounded; and whether that was in time."""
    assert process.stdout is not None
    fd, deadline, data = process.stdout.fileno(), time.monotonic() + timeout_s, b""
    while len(data) < _MAX_REPORT_BYTES:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return data, False
        part = os.read(fd, 1 << 16)
        if not part:
            break
        data += part
    return data, True


def _report_of(data: bytes) -> dict[str, Any]:
    """The keeper's report and the tester's verdict in one; what was cut off counts as not said."""
    report: dict[str, Any] = {}
    while len(data) >= 4 and len(data) - 4 >= (size := struct.unpack("<I", data[:4])[0]):
        try:
            report |= json.loads(data[4 : 4 + size])
        except (ValueError, TypeError):
            break
        data = data[4 + size :]
    return report


def _tail(file: Any) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 300))
    return str(file.read().decode(errors="replace")).strip().replace("\n", "; ")
