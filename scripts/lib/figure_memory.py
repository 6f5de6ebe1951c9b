# Resident memory: without connections, with idle connections after one echo each, and in a burst.

import re
import tempfile
import time

from process import Client, Load, Server, settle
from report import Figure, Table

BURST_BYTES = 64 * 1024


def measure(setup):
    load = setup.scaled(Load(10_000))
    raw = {}
    for name, command in setup.servers.items():
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            with Server(setup.with_log(name, command), [setup.server_cpu], log.name) as server:
                raw[name] = _measure_server(setup, server, load)
            raw[name]["memory_lines_of_log"] = _memory_lines(log.read())
    table = Table(["server", "empty", "idle", "for the connections", "burst (peak)", "afterwards"],
                  left=1)
    for name, memory in raw.items():
        table.add(name, *(_mib(kib) for kib in (
            memory["empty"]["VmRSS"], memory["idle"]["VmRSS"],
            memory["idle"]["VmRSS"] - memory["empty"]["VmRSS"],
            memory["burst"]["VmHWM"], memory["afterwards"]["VmRSS"])))
    notes = [f"MiB resident (VmRSS). Idle: {load.connections:,} connections that have each echoed"
             f" 64 B once. Burst: {load.connections:,} connections that send 64 KiB each at once;"
             " the peak is VmHWM. Kernel memory is not included."]
    for name, memory in raw.items():
        notes += [f"{name} at start: {line}" for line in memory["memory_lines_of_log"]]
    return Figure("memory", "Resident memory", table, raw, notes)


def _measure_server(setup, server, load):
    settle(server)
    memory = {"connections": load.connections, "empty": server.memory_kib()}
    with Client(setup.floor_binary, server.address, load, setup.client_cpus) as client:
        client.each(1)
        settle(server)
        memory["idle"] = server.memory_kib()
    settle(server)
    server.reset_peak()
    burst = load._replace(size=BURST_BYTES)
    with Client(setup.floor_binary, server.address, burst, setup.client_cpus) as client:
        client.each(1)
        memory["burst"] = server.memory_kib()
    time.sleep(1)
    settle(server)
    memory["afterwards"] = server.memory_kib()
    return memory


def _memory_lines(log):
    """The log lines on memory at start, without times and levels."""
    lines = [re.sub(r"^\[[^\]]*\]\s*", "", line) for line in log.splitlines()]
    return [line for line in lines if re.search(r"memory|\b[KMG]iB\b", line)][:20]


def _mib(kib):
    return f"{kib / 1024:.1f}"
