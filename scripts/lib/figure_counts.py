# Exact counts: system calls (strace) and user-space instructions (callgrind) per echo.

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

from process import Client, Load, Process, Server
from report import Figure, Table


def measure_syscalls(setup):
    """One worker, 1,000 busy connections, 64 B. Counts while strace is attached."""
    _need("strace")
    load = setup.scaled(Load(1_000))
    raw = {}
    for name, command in setup.servers.items():
        with Server(command, [setup.server_cpu]) as server:
            with Client(setup.floor_binary, server.address, load, setup.client_cpus) as client:
                client.each(2)
                echoes, calls = _count_calls(server, client, setup.count_seconds, setup.client_cpus)
        raw[name] = {"echoes": echoes, "calls": calls}
    table = Table(["server", "system calls/echo", "which"], left=1)
    for name, counted in raw.items():
        total = sum(counted["calls"].values())
        each = sorted(counted["calls"].items(), key=lambda item: -item[1])
        shares = [(call, count / counted["echoes"]) for call, count in each]
        which = ", ".join(f"{call} {share:.3f}" for call, share in shares if share >= 0.0005)
        table.add(name, f"{total / counted['echoes']:.3f}", which)
    notes = [f"{load.connections:,} busy connections, 64 B. strace slows the server, so a wait may"
             " find more events than it would otherwise."]
    return Figure("syscalls", "System calls per echo", table, raw, notes)


def _count_calls(server, client, seconds, cpus):
    """Returns (echoes, calls by name) of the same period."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "strace")
        command = ["strace", "-f", "-c", "-o", path, "-p", str(server.pid)]
        with Process(command, cpus) as strace:
            _wait_until_traced(server.pid, strace)
            echoes = client.slice(seconds)["messages"]
            strace.stop(signal.SIGINT)
        with open(path, encoding="utf-8") as summary:
            return echoes, _parse_strace(summary.read())


def _wait_until_traced(pid, strace):
    """Waits until every thread of the server is traced."""
    end = time.monotonic() + 10
    while time.monotonic() < end and strace.child.poll() is None:
        time.sleep(0.05)
        tasks = os.listdir(f"/proc/{pid}/task")
        if all(_is_traced(pid, task) for task in tasks):
            return
    raise SystemExit("figures: strace could not attach: run as root, or as the server's user with"
                     " kernel.yama.ptrace_scope=0")


def _is_traced(pid, task):
    with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as status:
        return re.search(r"^TracerPid:\s+[1-9]", status.read(), re.MULTILINE) is not None


def _parse_strace(summary):
    """Parses lines `% time  seconds  usecs/call  calls  [errors]  syscall`."""
    calls = {}
    for line in summary.splitlines():
        match = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?([a-z]\w*)$", line)
        if match and match.group(2) != "total":
            calls[match.group(2)] = int(match.group(1))
    if not calls:
        raise SystemExit(f"figures: strace counted nothing:\n{summary}")
    return calls


def measure_instructions(setup):
    """Subtracts a run of N echoes from one of 2 N, so that start, connecting and exit cancel."""
    _need("valgrind")
    _need("callgrind_annotate")
    load = setup.scaled(Load(100))
    raw = {}
    for name, command in setup.servers.items():
        short = _callgrind(setup, command, load, setup.echoes_each)
        long = _callgrind(setup, command, load, 2 * setup.echoes_each)
        raw[name] = _slope(short, long, load.connections * setup.echoes_each)
    table = Table(["server", "where", "instructions/echo"])
    for name, counted in raw.items():
        table.add(name, "total", f"{counted['per_echo']:.1f}")
        for by in ("function", "file"):
            for where, per_echo in _largest(counted["lines"], by)[:setup.places_max]:
                table.add("", f"{by} {where}", f"{per_echo:.1f}")
    notes = [f"User space only, {load.connections} busy connections, 64 B; the difference of two"
             f" runs, divided by {load.connections * setup.echoes_each:,} echoes. By function,"
             " inlined code counts for the function that contains it; by file, for the file of its"
             " source."]
    return Figure("instructions", "User-space instructions per echo", table, raw, notes)


def _callgrind(setup, command, load, echoes_each):
    """Returns (total instructions, instructions by function) of a whole run of the server."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "callgrind")
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={path}"]
        with Server(valgrind + command, [setup.server_cpu]) as server:
            with Client(setup.floor_binary, server.address, load, setup.client_cpus) as client:
                client.each(echoes_each)
            # Lets the server close the connections, so that both runs end in the same state.
            time.sleep(0.5)
        if not os.path.exists(path):
            raise SystemExit("figures: the server was killed before callgrind could write")
        annotated = subprocess.run(
            ["callgrind_annotate", "--threshold=100", "--auto=no", path],
            check=True, capture_output=True, text=True).stdout
        return _parse_callgrind(annotated)


def _parse_callgrind(annotated):
    """Returns (total instructions, {(function, file): instructions})."""
    total = 0
    lines = {}
    for line in annotated.splitlines():
        match = re.match(r"\s*([\d,]+)\s*(?:\([\d. ]+%\))?\s+(.+)$", line)
        if not match:
            continue
        count = int(match.group(1).replace(",", ""))
        if match.group(2).startswith("PROGRAM TOTALS"):
            total = count
        elif ":" in match.group(2):
            place = _function_and_file(match.group(2))
            lines[place] = lines.get(place, 0) + count
    return total, lines


def _function_and_file(text):
    """Parses `/any/where/crate/src/file.rs:name [object]` into (name, crate/src/file.rs)."""
    text = re.sub(r"\s+\[[^\]]*\]$", "", text)
    path, _, function = text.partition(":")
    path = path.removeprefix(os.getcwd() + "/")
    return function, re.sub(r"^.*/(?=[^/]+/src/)", "", path)


def _slope(short, long, echoes):
    """The additional instructions of the longer run, per additional echo."""
    lines = [
        (function, file, (count - short[1].get((function, file), 0)) / echoes)
        for (function, file), count in long[1].items()
    ]
    lines.sort(key=lambda line: -line[2])
    return {
        "echoes": echoes,
        "per_echo": (long[0] - short[0]) / echoes,
        "lines": [(function, file, round(count, 2)) for function, file, count in lines
                  if count >= 0.5],
    }


def _largest(lines, by):
    """The sums by function or by file, largest first."""
    sums = {}
    for function, file, count in lines:
        key = function if by == "function" else file
        sums[key] = sums.get(key, 0) + count
    return sorted(sums.items(), key=lambda item: -item[1])


def _need(program):
    if shutil.which(program) is None:
        raise SystemExit(f"figures: {program} is not installed")
