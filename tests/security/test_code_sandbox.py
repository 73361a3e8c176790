"""Programs that mean harm, in the sandbox of the code benchmarks: none passes, none gets out, none takes long."""
# ruff: noqa: E501
# a hostile program reads best on a line of its own

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alignray.errors import ConfigError
from alignray.evals.code.humaneval import HumanEvalConfig, benchmark, check_machine
from alignray.evals.sandbox import Isolation, Limits, Outcome, run_tests

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, seccomp and rlimits are Linux'")
QUICK = Limits(timeout_s=1.0, memory_bytes=256 << 20)
PASSES = "def check(candidate):\n    assert candidate() == 'out'\n"
"""Holds only where the program did its harm, and for none of the others."""


def run(program: str, checks: str = PASSES, **options: object) -> Outcome:
    return run_tests(program, checks, entry_point="f", limits=QUICK, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def walls() -> Isolation:
    return run("def f(): return 'out'").isolation


@pytest.fixture
def full(walls: Isolation) -> Iterator[None]:
    if not walls.is_full:
        pytest.skip(f"this machine has no full sandbox: {walls}")
    yield


def body(*lines: str) -> str:
    return "def f():\n" + "\n".join(f"    {line}" for line in lines)


def test_an_honest_program_passes_and_a_wrong_one_does_not() -> None:
    assert run("def f(): return 'out'").status == "passed"
    wrong = run("def f(): return 'in'")
    assert (wrong.status, wrong.detail) == ("failed", "AssertionError")


HARMFUL = {
    "fork bomb": body("import os", "while True: os.fork()"),
    "process bomb": body("import subprocess, sys", "[subprocess.Popen([sys.executable, '-c', 'while 1: pass']) for _ in range(100)]", "return 'out'"),
    "exec": body("import os", "os.execv('/bin/sh', ['sh', '-c', 'true'])"),
    "kill parent": body("import os", "os.kill(os.getppid(), 9)", "return 'out'"),
    "kill all": body("import os", "os.kill(-1, 9)", "return 'out'"),
    "own session": body("import os", "os.setsid()", "return 'out'"),
    "unshare": body("import ctypes", "assert ctypes.CDLL(None).unshare(0x10000000) == 0", "return 'out'"),
    "raise limits": body("import resource", "resource.setrlimit(resource.RLIMIT_NOFILE, (10**5, 10**5))", "return 'out'"),
    "lower limits": body("import resource", "resource.prlimit(0, resource.RLIMIT_NOFILE, (1, 1))", "return 'out'"),
    "mount": body("import ctypes", "assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0", "return 'out'"),
    "memory bomb": body("x = [bytearray(1 << 20) for _ in range(4096)]", "return 'out'"),
    "big file": body("open('x', 'wb').write(bytes(64 << 20))", "return 'out'"),
    "many files": body("[open(f'f{n}', 'wb').write(bytes(1 << 20)) for n in range(64)]", "return 'out'"),
    "many open files": body("x = [open(f'g{n}', 'wb') for n in range(500)]", "return 'out'"),
    "exit in module": "import sys\nsys.exit(0)",
    "hard exit in module": "import os\nos._exit(0)",
    "exit in call": body("import sys", "sys.exit(0)"),
    "hard exit in call": body("import os", "os._exit(0)"),
    "abort": body("import os", "os.abort()"),
    "segfault": body("import ctypes", "ctypes.string_at(0)"),
    "no function": "g = 1",
    "syntax": "def f(:",
    "recursion": body("return f()"),
    "closed standard input": body("return input()"),
}


@pytest.mark.parametrize("name", sorted(HARMFUL))
@pytest.mark.usefixtures("full")
def test_harm_fails(name: str) -> None:
    started = time.monotonic()
    outcome = run(HARMFUL[name])
    assert outcome.status in ("failed", "died", "timed_out"), outcome
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("program", [
    body("while True: pass"), "while True: pass", body("import time", "time.sleep(100)"),
    body("import signal", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))", "while True: pass"),
    body("import sys", "while True: sys.stdout.write('x' * 10**6); sys.stderr.write('y' * 10**6)"),
    body("try:", "    while True: pass", "finally:", "    while True: pass"),
])
def test_endless_programs_and_floods_end_on_time(program: str) -> None:
    started = time.monotonic()
    outcome = run_tests(program, PASSES, entry_point="f", limits=Limits(timeout_s=0.3))
    assert outcome.status == "timed_out" and len(outcome.detail) < 1000
    assert time.monotonic() - started < 5


CHEATS = {
    "equals all": "class A:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\ndef f(): return A()",
    "list that equals all": "class A(list):\n    def __eq__(self, other): return True\ndef f(): return A()",
    "assertions patched": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\ndef f(): return 0",
    "check replaced": "def check(candidate): pass\ndef f(): return 0",
    "main patched": "import sys\nm = sys.modules['__main__']\nm.be_tester = lambda *a: {'nonce': m.job['nonce']}\ndef f(): return 0",
    "nonce looked for": (
        "import gc, sys\ndef f():\n    found = [o for o in gc.get_objects() if isinstance(o, dict) and 'nonce' in o]\n"
        "    frame = sys._getframe()\n    while frame:\n        found += [v for v in frame.f_locals.values() if isinstance(v, dict) and 'nonce' in v]\n"
        "        frame = frame.f_back\n    return 'out' if found else 0"
    ),
    "report forged": (
        "import os, json, struct\ndata = json.dumps({'nonce': '', 'facts': {'namespaces': True, 'files': True, 'seccomp': True, 'notes': []}}).encode()\n"
        "for fd in range(0, 64):\n    try: os.write(fd, struct.pack('<I', len(data)) + data)\n    except OSError: pass\ndef f(): return 0"
    ),
    "garbage on the pipe": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 100)\n    except OSError: pass\ndef f(): return 0",
    "deep answer": "import json, os, struct\ndef f():\n    data = b'[' * 100000\n    [os.write(fd, struct.pack('<I', len(data)) + data) for fd in [5, 6, 7]]",
    "deep value": "def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "tests looked for": "import os\ndef f():\n    for fd in range(64):\n        try:\n            os.lseek(fd, 0, 0)\n            if b'assert' in os.read(fd, 10**6): return 'out'\n"
                        "        except OSError: pass\n    return 0",
}


@pytest.mark.parametrize("name", sorted(CHEATS))
def test_cheats_pass_nothing(name: str) -> None:
    assert run(CHEATS[name]).status in ("failed", "died"), name


@pytest.mark.usefixtures("full")
def test_nothing_outside_is_written_or_read(tmp_path: Path) -> None:
    secret, target = tmp_path / "secret.txt", tmp_path / "written"
    secret.write_text("hush")
    secret.chmod(0o644)
    tmp_path.chmod(0o777)
    assert run(body(f"return 'out' if open({str(secret)!r}).read() else 0")).status == "failed"
    for place in (target, "/etc/alignray", "/usr/lib/alignray", "/alignray", "/lib/x", "/var/x", Path(sys.base_prefix) / "lib" / "x", Path.home() / "x"):
        assert run(body(f"open({str(place)!r}, 'w').write('x')", "return 'out'")).status == "failed", place
        assert not Path(place).exists()
    kept = run("open('mine', 'w').write('x')\nimport os\n" + body("return 'out' if os.listdir('.') == ['mine'] and os.environ['HOME'] == os.getcwd() else 0"))
    assert kept.status == "passed"
    listing = run("import os\n" + body("return 'out' if set(os.listdir('/')) & {'etc', 'home', 'proc', 'var', 'work'} else 0"))
    assert listing.status == "failed"


@pytest.mark.usefixtures("full")
def test_no_process_and_no_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRAY_TEST_API_KEY", "hunter2")
    look = body(
        "import os", "seen = str(dict(os.environ))", "for pid in [1, os.getppid(), 'self', *range(2, 50)]:",
        "    for name in ('environ', 'mem', 'cmdline', 'maps'):", "        try: seen += open(f'/proc/{pid}/{name}', errors='replace').read(9999)",
        "        except OSError: pass", "return 'out' if 'hunter2' in seen or len(seen) > 400 else 0",
    )
    assert run(look).status == "failed"
    reads = body("import ctypes, os", "class V(ctypes.Structure): _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]",
                 "buffer = ctypes.create_string_buffer(8)", "mine = V(ctypes.addressof(buffer), 8); theirs = V(0x400000, 8)",
                 "done = ctypes.CDLL(None).process_vm_readv(1, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)",
                 "return 'out' if done > 0 or ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 0")
    assert run(reads).status == "failed"


@pytest.mark.parametrize("attempt", [("namespaces", "seccomp"), ("namespaces",), ("seccomp",)])
@pytest.mark.usefixtures("full")
def test_each_wall_alone_stops_the_network(attempt: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        program = body("import socket", f"socket.create_connection(('127.0.0.1', {port}), timeout=0.5).send(b'x')", "return 'out'")
        assert run(program, attempt=attempt).status == "failed"
        with pytest.raises(TimeoutError):
            server.accept()


def test_without_walls_limits_clock_and_the_split_still_hold_and_it_says_so() -> None:
    outcome = run("def f(): return 'out'", attempt=())
    assert outcome.status == "passed" and outcome.isolation == Isolation()
    for name in ("hard exit in module", "exit in call", "memory bomb", "big file"):
        assert run(HARMFUL[name], attempt=()).status in ("failed", "died"), name
    for name in ("equals all", "nonce looked for", "report forged", "tests looked for"):
        assert run(CHEATS[name], attempt=()).status in ("failed", "died"), name


@pytest.mark.parametrize("killed", ["os.kill(os.getppid(), 9)", "os.kill(os.getpgid(0), 9)", "os.kill(0, 9)"])  # tester, keeper, both
@pytest.mark.parametrize("when", ["in the module", "in the call"])
def test_a_program_that_ends_its_tests_without_walls_has_died_and_nothing_else_ends(killed: str, when: str) -> None:
    lines = (killed, "time.sleep(9)")
    program = "import os, time\n" + ("\n".join(lines) if when == "in the module" else body(*lines))
    outcome = run(program, attempt=())
    assert (outcome.status, outcome.isolation) == ("died", Isolation()), outcome
    assert run("def f(): return 'out'", attempt=()).status == "passed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to drop")
def test_root_has_no_capability_without_namespaces_either() -> None:
    lines = ["seen = open('/proc/self/status').read()", "names = ('CapInh', 'CapPrm', 'CapEff', 'CapBnd')"]
    assert run(body(*lines, "return 'out' if all(f'{n}:\\t{0:016x}' in seen for n in names) else seen[:250]"), attempt=()).status == "passed"


def test_without_seccomp_the_namespaces_hold_processes_that_stay_behind(walls: Isolation) -> None:
    if not walls.namespaces:
        pytest.skip("no namespaces here")
    mark = f"alignray{os.getpid()}"
    program = f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    open({mark!r}, 'w')\n    time.sleep(60)\n" + body("return 'out'")
    assert run(program, attempt=("namespaces",)).status == "passed"
    time.sleep(0.1)
    sleeping = [path for path in Path("/proc").glob("[0-9]*/fd/*") if _points_to(path, mark)]
    assert sleeping == []


def _points_to(path: Path, mark: str) -> bool:
    try:
        return mark in str(path.readlink())
    except OSError:
        return False


def test_a_machine_without_a_wall_is_refused_before_answers_are_paid_for() -> None:
    with pytest.raises(ConfigError, match="require is strict"):
        check_machine("strict", attempt=("seccomp",))
    check_machine("best")
    config = HumanEvalConfig.model_validate({"kind": "humaneval", "path": "x.jsonl"})
    assert benchmark(config).check.args == ("strict",)  # type: ignore[attr-defined]


def test_strict_refuses_where_a_wall_is_missing() -> None:
    with pytest.raises(ConfigError, match="require is strict"):
        run("def f(): return 'out'", attempt=("seccomp",), require="strict")


@pytest.mark.usefixtures("full")
def test_strict_runs_where_all_walls_stand() -> None:
    assert run("def f(): return 'out'", require="strict").isolation.is_full


def test_values_come_across_as_they_are() -> None:
    values = (
        "[1, 2.5, -0.0, float('inf'), 10**40, True, None, 'caf\\u00e9 \\ud800', b'\\x00\\xff', (1, (2,)), {3, 4}, {'a': [1], 2: (3,)}, 1 + 2j, '', [], {}, ()]"
    )
    checks = f"def check(c):\n    v = {values}\n    w = c(*v, x=v)\n    assert repr(w) == repr((tuple(v), v)), w\n    assert type(w) is tuple\n"
    assert run("def f(*a, x): return a, x", checks).status == "passed"
    raised = "def check(c):\n    try: c()\n    except ValueError as e: assert str(e) == 'no'\n    else: assert False\n"
    assert run("def f(): raise ValueError('no')", raised).status == "passed"
    numbers = "from fractions import Fraction\ndef check(c):\n    assert c() == [Fraction(1, 3), 0.5]\n"
    assert run("from fractions import Fraction\nfrom decimal import Decimal\ndef f(): return [Fraction(1, 3), Decimal('0.5')]", numbers).status == "passed"


def test_many_at_once_do_not_disturb_each_other_and_leave_nothing_behind() -> None:
    before = set(Path(tempfile.gettempdir()).glob("alignray-sandbox-*"))
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: run(body(f"return {'out' if n % 2 else 'in'!r}")).status, range(24)))
    assert outcomes == ["failed", "passed"] * 12
    assert set(Path(tempfile.gettempdir()).glob("alignray-sandbox-*")) <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
