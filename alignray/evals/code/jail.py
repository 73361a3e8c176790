"""The inside of the sandbox: a program that ``alignray.evals.sandbox`` starts; it builds the jail, forks candidate and tester.

Standard library only, and never imported by alignray. Three processes: the *keeper* sets up namespaces, reports what it got and
waits; the *tester* is process 1 of the new PID namespace, holds the tests and the nonce, calls the candidate over a pipe and reports
the verdict; the *candidate* runs the model's program. Without namespaces and seccomp the candidate can kill the other two: then the
keeper's report stays alone. The candidate is forked before the tests and the nonce have been read, so neither was ever in its memory,
and only plain values (numbers, texts, lists, ...) come back from it: an object that equals everything equals nothing here.
"""
# ruff: noqa: PTH102, PTH103, PTH106, PTH114, PTH115, PTH120, PTH123, PTH211
# the less is imported the sooner a program runs

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time

CLONE = {"mount": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
MAX_FRAME = 32 << 20
"""Bytes of one message between tester and candidate."""
MAX_DETAIL = 300
INNER_ID = 1000

# number on x86_64, number on aarch64; -1: not there
SYSCALLS = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "kcmp": (312, 272), "setsid": (112, 157), "setpgid": (109, 154), "prlimit64": (302, 261), "setrlimit": (160, 164),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "mount_setattr": (442, 442),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "open_by_handle_at": (304, 265), "mknod": (133, -1),
    "mknodat": (259, 33), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "setuid": (105, 146), "setgid": (106, 144),
    "setresuid": (117, 147), "setresgid": (119, 149), "setreuid": (113, 145), "setregid": (114, 143), "setgroups": (116, 159),
    "capset": (126, 91), "personality": (135, 92), "memfd_create": (319, 279),
}
CLONE3, CLONE_CALL, PRLIMIT = (435, 435), (56, 220), (302, 261)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE_THREAD = 0x00010000
EPERM, ENOSYS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _prctl(option: int, value: int, pointer: object = 0) -> None:
    none = ctypes.c_ulong(0)
    _call("prctl", ctypes.c_int(option), ctypes.c_ulong(value), pointer or none, none, none)


# ---- frames: a length and that many bytes


def read_exactly(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_frame(fd: int, limit: int = MAX_FRAME) -> bytes:
    (size,) = struct.unpack("<I", read_exactly(fd, 4))
    if size > limit:
        raise ValueError("message too long")
    return read_exactly(fd, size)


def write_frame(fd: int, data: bytes) -> None:
    view = memoryview(struct.pack("<I", len(data)) + data)
    while view:
        view = view[os.write(fd, view):]


# ---- plain values as JSON and back


def pack(value: object, depth: int = 0) -> object:
    """A value as JSON; what is no plain value becomes {"o": name of its type}, which equals nothing."""
    if depth > 100:
        return {"o": "nested too deeply"}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if -(1 << 53) < number < 1 << 53 else {"i": hex(number)}
    if isinstance(value, float):
        return {"f": float(value).hex()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, complex):
        return {"c": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, dict):
        return {"d": [[pack(key, depth + 1), pack(inner, depth + 1)] for key, inner in value.items()]}
    for kind, tag in ((list, "l"), (tuple, "t"), ((set, frozenset), "s")):
        if isinstance(value, kind):
            return {tag: [pack(inner, depth + 1) for inner in value]}
    if type(value).__name__ in ("Fraction", "Decimal") and type(value).__module__ in ("fractions", "decimal"):
        return {"n": [type(value).__name__, str(value)]}
    return {"o": type(value).__name__[:80]}


class Opaque:
    """A value that did not come across."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        raise TypeError(f"the candidate's answer is no plain value but a {self.name}")


def unpack(packed: object) -> object:
    """The value of ``pack``; raises ValueError, TypeError, KeyError or OverflowError for anything else."""
    if packed is None or isinstance(packed, (bool, int, str)):
        return packed
    if not isinstance(packed, dict) or len(packed) != 1:
        raise ValueError("not a packed value")
    ((tag, inner),) = packed.items()
    if tag == "i":
        return int(inner, 16)
    if tag == "f":
        return float.fromhex(inner)
    if tag == "b":
        return bytes.fromhex(inner)
    if tag == "c":
        return complex(float.fromhex(inner[0]), float.fromhex(inner[1]))
    if tag == "n":
        import decimal
        import fractions

        return fractions.Fraction(inner[1]) if inner[0] == "Fraction" else decimal.Decimal(inner[1])
    if tag == "d":
        return {unpack(key): unpack(value) for key, value in inner}
    if tag in ("l", "t", "s"):
        return {"l": list, "t": tuple, "s": set}[tag](unpack(value) for value in inner)
    return Opaque(str(inner))


# ---- walls


def isolate_namespaces() -> None:
    """This process in user, mount, network, IPC and host-name namespaces of its own; children in a PID namespace."""
    user, group = os.geteuid(), os.getegid()
    flags = 0
    for flag in CLONE.values():
        flags |= flag
    _call("unshare", ctypes.c_int(flags))
    for path, text in (("setgroups", "deny"), ("uid_map", f"{INNER_ID} {user} 1"), ("gid_map", f"{INNER_ID} {group} 1")):
        with open(f"/proc/self/{path}", "w") as file:
            file.write(text)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def _make_read_only(path: str) -> None:
    """Every mount under a path, where the kernel can (5.12); else the topmost with the flags it has."""
    attributes = struct.pack("<QQQQ", 1 | 2, 0, 0, 0)  # MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    at_recursive, at_fdcwd = 0x8000, -100
    number, size = ctypes.c_long(SYSCALLS["mount_setattr"][0]), ctypes.c_size_t(32)
    if _libc.syscall(number, ctypes.c_int(at_fdcwd), path.encode(), ctypes.c_uint(at_recursive), attributes, size):
        kept = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | 8 | 1024 | 2048)
        _mount("none", path, "none", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def isolate_files(root: str, libraries: list[str], max_bytes: int) -> None:
    """A new root: the libraries read-only, an empty writable /tmp in memory, and nothing else; no /proc, no /etc, no /home."""
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in libraries:
        inside = root + path
        if os.path.lexists(inside):
            continue
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path) and path.count("/") == 1:
            os.symlink(os.readlink(path), inside)
            continue
        os.mkdir(inside)
        _mount(path, inside, "none", MS_BIND | MS_REC)
        _make_read_only(inside)
    os.mkdir(root + "/tmp", 0o700)
    _mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={max_bytes},nr_inodes=4096,mode=700")
    os.mkdir(root + "/old")
    _call("syscall", ctypes.c_long(SYSCALLS["pivot_root"][ARCHITECTURES[os.uname().machine][0]]), root.encode(), (root + "/old").encode())
    os.chdir("/")
    _call("umount2", b"/old", ctypes.c_int(MNT_DETACH))
    os.rmdir("/old")
    _mount("none", "/", "none", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.chdir("/tmp")


def drop_capabilities() -> None:
    """No capability is left, and none can come back through an exec."""
    for number in range(64):
        if _libc.prctl(ctypes.c_int(PR_CAPBSET_DROP), ctypes.c_ulong(number), 0, 0, 0):
            break
    header = struct.pack("<Ii", 0x20080522, 0)
    _call("capset", header, bytes(24))


def seccomp_program(machine: str) -> bytes:
    """Filter: the system calls above answer EPERM, so does a clone that is no thread; clone3 answers ENOSYS, then libc uses clone."""
    column, audit = ARCHITECTURES[machine]
    load, jump_equal, jump_ge, jump_set, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, error = 0x7FFF0000, 0x80000000, 0x00050000

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    def refuse(number: int, error_number: int = EPERM) -> bytes:
        return step(jump_equal, 0, 1, number) + step(answer, 0, 0, error | error_number)

    program = step(load, 0, 0, 4) + step(jump_equal, 1, 0, audit) + step(answer, 0, 0, kill) + step(load, 0, 0, 0)
    if machine == "x86_64":  # the x32 numbers of the same calls
        program += step(jump_ge, 0, 1, 0x40000000) + step(answer, 0, 0, error | ENOSYS)
    program += refuse(CLONE3[column], ENOSYS)
    for name, numbers in SYSCALLS.items():
        if numbers[column] >= 0 and name != "prlimit64":
            program += refuse(numbers[column])
    # prlimit64 may read (libc does for a new thread's stack): third argument, the new limit, has to be null, low and high half
    program += step(jump_equal, 0, 5, PRLIMIT[column]) + step(load, 0, 0, 16 + 2 * 8) + step(jump_equal, 0, 2, 0)
    program += step(load, 0, 0, 16 + 2 * 8 + 4) + step(jump_equal, 1, 0, 0) + step(answer, 0, 0, error | EPERM)
    # a prlimit64 that reads comes here with 0 in place of the number, which is no clone
    program += step(jump_equal, 0, 3, CLONE_CALL[column]) + step(load, 0, 0, 16) + step(jump_set, 1, 0, CLONE_THREAD)
    program += step(answer, 0, 0, error | EPERM)
    return program + step(answer, 0, 0, allow)


def install_seccomp() -> None:
    program = seccomp_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(header))


def set_limits(limits: dict[str, int]) -> None:
    """Hard limits on CPU seconds, address space, files and processes; no core files."""
    for name, value in (
        ("RLIMIT_CORE", 0), ("RLIMIT_CPU", limits["cpu_s"]), ("RLIMIT_AS", limits["memory_bytes"]), ("RLIMIT_FSIZE", limits["file_bytes"]),
        ("RLIMIT_NOFILE", 64), ("RLIMIT_NPROC", limits["processes"]),
    ):
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (most, most))


def lock(limits: dict[str, int], facts: dict[str, object], wanted: list[str]) -> None:
    """What holds for candidate and tester alike; ``facts`` says what worked. Root keeps no capability, in whatever namespace."""
    set_limits(limits)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if facts["namespaces"] or os.geteuid() == 0:
        drop_capabilities()
    if "seccomp" in wanted:
        install_seccomp()


def try_seccomp() -> bool:
    """Whether the filter can be installed, found out in a child: it cannot be taken off again."""
    if os.uname().machine not in ARCHITECTURES:
        return False
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _prctl(PR_SET_NO_NEW_PRIVS, 1)
            install_seccomp()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- the candidate


def close_all_but(keep: tuple[int, ...]) -> None:
    for low, high in zip((2, *sorted(keep)), (*sorted(keep), 4096), strict=True):
        os.closerange(low + 1, high)


def be_candidate(source: str, entry_point: str, requests: int, replies: int) -> None:
    """Run the program, then answer calls until the pipe ends. Never returns."""
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    namespace: dict[str, object] = {"__name__": "candidate", "__builtins__": __builtins__}
    try:
        exec(compile(source, "candidate.py", "exec", dont_inherit=True), namespace)
        function = namespace[entry_point]
        write_frame(replies, b'{"ready": true}')
    except BaseException as error:
        write_frame(replies, json.dumps(describe(error)).encode())
        os._exit(0)
    while True:
        try:
            call = json.loads(read_frame(requests))
        except BaseException:
            os._exit(0)
        try:
            answer = function(*unpack(call["a"]), **unpack(call["k"]))  # type: ignore[operator, misc, arg-type]
            frame = json.dumps({"v": pack(answer)}).encode()
        except BaseException as error:
            frame = json.dumps(describe(error)).encode()
        write_frame(replies, frame)


def describe(error: BaseException) -> dict[str, str]:
    try:
        text = str(error)[:MAX_DETAIL]
    except BaseException:
        text = ""
    return {"e": type(error).__name__[:80], "m": text}


# ---- the tester


class CandidateGone(Exception):
    """The candidate's process ended, or said what is no message."""


class TimedOut(BaseException):
    """The time is up."""


class CandidateFailed(Exception):
    """The candidate raised something that is no built-in exception."""


class Caller:
    """The candidate's function as the tests see it."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies

    def wait_until_ready(self) -> None:
        answer = self._receive()
        if answer.get("ready") is not True:
            self._fail(answer)

    def __call__(self, *arguments: object, **named: object) -> object:
        try:
            write_frame(self._requests, json.dumps({"a": pack(arguments), "k": pack(named)}).encode())
        except BrokenPipeError:
            raise CandidateGone("the candidate's process ended") from None
        answer = self._receive()
        if "v" not in answer:
            self._fail(answer)
        try:
            return unpack(answer["v"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, ArithmeticError):
            raise CandidateGone("the candidate's answer is no message") from None

    def _receive(self) -> dict[str, object]:
        try:
            answer = json.loads(read_frame(self._replies))
        except EOFError:
            raise CandidateGone("the candidate's process ended") from None
        except (ValueError, RecursionError):
            raise CandidateGone("the candidate's answer is no message") from None
        if not isinstance(answer, dict):
            raise CandidateGone("the candidate's answer is no message")
        return answer

    def _fail(self, answer: dict[str, object]) -> None:
        name, message = str(answer.get("e", "")), str(answer.get("m", ""))[:MAX_DETAIL]
        kind = getattr(__import__("builtins"), name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and not name.startswith("Unicode"):
            raise kind(message)
        raise CandidateFailed(f"{name}: {message}")


def _time_is_up(_signal: int, _frame: object) -> None:
    raise TimedOut


def be_tester(job: dict[str, str], entry_point: str, caller: Caller, timeout_s: float) -> dict[str, str]:
    """The verdict: the nonce after the last assertion, or what went wrong first."""
    signal.signal(signal.SIGALRM, _time_is_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, timeout_s, 1.0)  # again and again: a test may swallow the first
        caller.wait_until_ready()
        namespace: dict[str, object] = {"__name__": "tests"}
        exec(compile(job["support"], "support.py", "exec", dont_inherit=True), namespace)
        namespace[entry_point] = caller
        exec(compile(job["checks"], "checks.py", "exec", dont_inherit=True), namespace)
        if job["call"]:
            namespace[job["call"]](caller)  # type: ignore[operator]
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimedOut:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return {"error": "TimedOut", "message": ""}
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        found = describe(error)
        return {"error": found["e"], "message": found["m"]}
    return {"nonce": job["nonce"]}


# ---- the keeper


def prepare(setup: dict[str, object], wanted: list[str]) -> dict[str, object]:
    """Namespaces and files, as far as they can be had; says what was."""
    facts: dict[str, object] = {"namespaces": False, "files": False, "seccomp": False, "notes": []}
    notes: list[str] = facts["notes"]  # type: ignore[assignment]
    if "namespaces" in wanted:
        try:
            isolate_namespaces()
            facts["namespaces"] = True
            isolate_files(str(setup["root"]), setup["libraries"], int(setup["limits"]["disk_bytes"]))  # type: ignore[arg-type, index]
            facts["files"] = True
        except OSError as error:
            notes.append(str(error)[:MAX_DETAIL])
    if facts["files"]:
        os.environ.update(HOME="/tmp", TMPDIR="/tmp")
    else:
        os.chdir(str(setup["root"]))
    _prctl(PR_SET_DUMPABLE, 0)  # not before: the ID maps could no longer be written
    return facts


def report_broken(out: int, error: OSError) -> None:
    """No program has run yet, so it is not the program's doing."""
    write_frame(out, json.dumps({"broken": str(error)[:MAX_DETAIL]}).encode())


def main() -> None:
    setup = json.loads(read_frame(0))
    wanted, limits = setup["wanted"], setup["limits"]
    out = os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    has_seccomp = "seccomp" in wanted and try_seccomp()
    facts = prepare(setup, wanted)
    facts["seccomp"] = has_seccomp
    wanted = ["seccomp"] if has_seccomp else []
    if setup["strict"] and not (facts["namespaces"] and facts["files"] and facts["seccomp"]):
        write_frame(out, json.dumps({"facts": facts, "refused": True}).encode())
        return
    # before the fork: nothing that the program does can take this report back
    write_frame(out, json.dumps({"facts": facts}).encode())
    keeper = os.getpid()
    try:
        tester = os.fork()
    except OSError as error:
        report_broken(out, error)
        return
    if tester:
        os.close(out)
        os.close(0)
        os.waitpid(tester, 0)
        return
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not facts["namespaces"] and os.getppid() != keeper:
        os._exit(1)
    try:
        call_read, call_write = os.pipe()
        reply_read, reply_write = os.pipe()
        candidate = os.fork()
    except OSError as error:
        report_broken(out, error)
        os._exit(1)
    if candidate == 0:
        try:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(null, 0)
            close_all_but((call_read, reply_write))
            lock(limits, facts, wanted)
            be_candidate(setup["candidate"], setup["entry_point"], call_read, reply_write)
        finally:
            os._exit(1)
    os.close(call_read)
    os.close(reply_write)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    job = json.loads(read_frame(0))
    os.dup2(null, 0)
    sys.stdout = sys.stderr = open(1, "w")  # noqa: SIM115
    lock({**limits, "cpu_s": limits["cpu_s"] + 1}, facts, wanted)
    started = time.monotonic()
    verdict = be_tester(job, setup["entry_point"], Caller(call_write, reply_read), setup["timeout_s"])
    write_frame(out, json.dumps({**verdict, "seconds": time.monotonic() - started}).encode())
    os._exit(0)  # as process 1 of its namespace it takes every other process in there with it


if __name__ == "__main__":
    main()
