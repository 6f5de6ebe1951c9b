# The processes of a measurement: starts, reads and ends servers and clients.

import collections
import contextlib
import ctypes
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import time

READY_SECONDS_MAX = 120.0

# Processes started here and not yet ended. Each is ended by its own pid.
_running = []

_ports = itertools.count()


def end_all():
    for process in list(_running):
        process.stop()


def exit_on_signals():
    """Makes SIGTERM and SIGHUP exit like Ctrl-C: through `finally`, which ends the children."""
    def leave(number, _frame):
        raise SystemExit(128 + number)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def own_port():
    """A port of 127.0.0.1 for a program that has to be told one. Each call returns another one, and by
    default the system chooses none of them for others."""
    first, count = 10_000, 22_000
    for _ in range(count):
        port = first + (16 * os.getpid() + next(_ports)) % count
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("figures: no free port")


class Process:
    """A child process on given CPUs. The kernel kills it when this script dies.

    Its standard error goes to the file `stderr_path`, or to that of this script with None.
    """

    def __init__(self, command, cpus, stderr_path=os.devnull):
        def in_child():
            os.sched_setaffinity(0, cpus)
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

        self.command = command
        stderr = open(stderr_path, "w", encoding="utf-8") if stderr_path else None
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            text=True, preexec_fn=in_child)
        if stderr:
            stderr.close()
        self.pid = self.child.pid
        _running.append(self)

    def read_line(self, seconds_max):
        """Reads a line of standard output. Lines arrive one at a time, so none is left buffered."""
        if not select.select([self.child.stdout], [], [], seconds_max)[0]:
            raise SystemExit(f"figures: no output for {seconds_max:.0f} s from {self._name()}")
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"figures: {self._name()} exited with {self.child.wait()}")
        return line.strip()

    def stop(self, signal_number=signal.SIGTERM, seconds_max=20.0):
        if self in _running:
            _running.remove(self)
        self.child.stdin.close()
        if self.child.poll() is None:
            self.child.send_signal(signal_number)
            try:
                self.child.wait(seconds_max)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.child.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _name(self):
        return " ".join(self.command[:4])


class Server(Process):
    """A server that prints `NAME listening on SERVICE://ADDRESS` when it is ready."""

    def __init__(self, command, cpus, stderr_path=os.devnull):
        super().__init__(command, cpus, stderr_path)
        line = self.read_line(READY_SECONDS_MAX)
        match = re.search(r"listening on \w+://([^\s?]+)", line)
        if not match:
            raise SystemExit(f"figures: not a ready line: {line}")
        self.address = match.group(1)

    def cpu_ns(self):
        """CPU time of all its threads in ns. /proc/PID/stat only has a resolution of 10 ms."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/schedstat", encoding="ascii") as schedstat:
                total += int(schedstat.read().split()[0])
        return total

    def memory_kib(self):
        """VmRSS, RssAnon and VmHWM (the peak of VmRSS since the last reset), in KiB."""
        fields = {}
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as status:
            for line in status:
                name, _, value = line.partition(":")
                if name in ("VmRSS", "RssAnon", "VmHWM"):
                    fields[name] = int(value.split()[0])
        return fields

    def reset_peak(self):
        with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as clear_refs:
            clear_refs.write("5")


Load = collections.namedtuple(
    "Load", "connections size pipeline interval_ms length_bytes", defaults=(64, 1, 0, 0))


class Client(Process):
    """The bare client: connects at start, and drives its connections on command."""

    def __init__(self, floor_binary, address, load, cpus):
        threads = min(len(cpus), load.connections)
        super().__init__(
            [floor_binary, "client", address, "--connections", str(load.connections),
             "--threads", str(threads), "--size", str(load.size),
             "--pipeline", str(load.pipeline), "--interval-ms", str(load.interval_ms),
             "--length-bytes", str(load.length_bytes)],
            cpus, stderr_path=None)
        self.read_line(READY_SECONDS_MAX)

    def begin(self, command):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()

    def report(self):
        return json.loads(self.read_line(READY_SECONDS_MAX * 5))

    def slice(self, seconds):
        """Drives all connections for a time, then waits for the messages in flight."""
        self.begin(f"slice {seconds}")
        report = self.report()
        # A client that had no processor in all of the slice is measured over the time it took.
        in_time = report["messages_in_time"] / seconds
        report["per_second"] = in_time or report["messages"] / report["elapsed_s"]
        return report

    def each(self, count):
        """Sends `count` messages on each connection."""
        self.begin(f"each {count}")
        return self.report()


LOADGEN_BINARY = "target/release/loadgen"
# Large parts of a report that no figure needs.
LEFT_OUT = ["seconds", "source_ips", "first_mismatches", "histogram_v2_deflate_base64"]


def loadgen_summary(address, flags, cpus):
    """Runs the load generator to its end. Returns its report without histograms and seconds."""
    # A directory without a calibration of the machine.
    command = ["env", "XDG_CACHE_HOME=target/no-cache", LOADGEN_BINARY, address, *flags,
               "--output-format", "json", "--progress", "none"]
    with Process(command, cpus) as run:
        out, _ = run.child.communicate(timeout=READY_SECONDS_MAX * 10)
        # 4: the verdict is not `valid`, which the figure reports.
        if run.child.returncode not in (0, 4):
            raise SystemExit(f"figures: {' '.join(command)} exited with {run.child.returncode}")
    return without_bulk(json.loads(out))


def sleeper_lateness(floor_binary, cpu, count):
    """Wake-up lateness of a thread that only sleeps until each next millisecond."""
    command = [floor_binary, "sleeper", "--every-us", "1000", "--count", str(count)]
    with Process(command, [cpu]) as sleeper:
        return json.loads(sleeper.read_line(READY_SECONDS_MAX))


def without_bulk(value):
    if isinstance(value, dict):
        return {key: without_bulk(inner) for key, inner in value.items() if key not in LEFT_OUT}
    return value


def settle(server, seconds_max=5.0):
    """Waits until the server is idle: it uses less than 1 ms of CPU in 100 ms."""
    end = time.monotonic() + seconds_max
    before = server.cpu_ns()
    while time.monotonic() < end:
        time.sleep(0.1)
        now = server.cpu_ns()
        if now - before < 1_000_000:
            return
        before = now
