# Upgrades under 10,000 verified clients in an open loop: what the clients see of them.
#
# The load generator writes one object per second. After every fourth one an upgrade is ordered, so the
# next second has all of it. The latencies of these seconds are compared with those of the seconds that
# follow, in the same run. The generator counts from the time at which a request was due, so a pause
# delays every request of its time, and none is left out.

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from process import LOADGEN_BINARY, Process, Server, without_bulk
from report import Figure, Table
from statistic import median_with_interval

CONNECTIONS = 10_000
RATE = 5_000
UPGRADES = 10
SECONDS_EACH = 4
WARM_UP_S = 2
MOVE_SECONDS_MAX = 20.0
KEYS = ["p50_ns", "p99_ns", "p99_9_ns", "max_ns"]


def measure(setup):
    connections, upgrades = (500, 2) if setup.quick else (CONNECTIONS, UPGRADES)
    rate = RATE // 10 if setup.quick else RATE
    run, ordered, texts = _run(setup, connections, rate, upgrades)
    table = Table(["seconds", "count", "p50 us", "p99 us", "p99.9 us", "worst p99.9 us", "worst us"],
                  left=1)
    seconds = [each for each in run["intervals"] if each["length_ns"] >= 500_000_000]
    # An upgrade is ordered when a second is over, so it is in the next one.
    kinds = {"with an upgrade": lambda number: number - 1 in ordered,
             "without": lambda number: number > 1 and number - 1 not in ordered
             and number - 2 not in ordered}
    for name, has in kinds.items():
        some = [each["latency"] for each in seconds if has(each["second"])]
        values = {key: [each[key] / 1e3 for each in some] for key in KEYS}
        middle = [median_with_interval(values[key])[0] for key in KEYS[:3]]
        worst = [max(values["p99_9_ns"]), max(values["max_ns"])]
        table.add(name, len(some), *(f"{value:,.0f}" for value in middle + worst))
    faults = {
        "closed by the server": run["server_closes"], "reconnects": run["reconnects"],
        "lost": run["connections"]["lost"], "bytes that differ": run["mismatched_connections"],
        "unanswered": run["requests_unanswered"],
    }
    notes = [f"{connections:,} connections, {rate:,} requests per second of 64 B in an open loop, each"
             f" byte verified; an upgrade every {SECONDS_EACH} s, {len(ordered)} in all. Percentiles"
             " are those of each second, and of them the median, and the worst.",
             "In all of the run: "
             + ", ".join(f"{count:,} {name}" for name, count in faults.items()) + "."]
    if any(faults.values()) or len(ordered) != upgrades:
        raise SystemExit(f"figures: an upgrade was noticed: {faults}, {len(ordered)} upgrades")
    raw = {"run": run, "ordered_after_second": sorted(ordered), "replies": texts}
    title = f"Latency in an open loop while the server is upgraded {upgrades} times"
    return Figure("upgrade", title, table, raw, notes)


def _run(setup, connections, rate, upgrades):
    """The generator's report, the seconds after which an upgrade was ordered, and the replies."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        token = os.path.join(folder, "token")
        with open(token, "w", encoding="ascii") as file:
            file.write("a-token-for-this-figure\n")
        flags = ["--admin", "127.0.0.1:0", "--admin-token-file", token]
        command = setup.echopool("127.0.0.1:0", workers=1) + flags
        server = stack.enter_context(Server(command, [setup.server_cpu]))
        # Both lines are written at once, so the second one is there.
        admin = server.child.stdout.readline().strip().removeprefix("echopool admin on ")
        successors = [server.pid]
        stack.callback(lambda: _end(successors[1:]))
        duration = upgrades * SECONDS_EACH + 2
        load = [LOADGEN_BINARY, f"tcp://{server.address}", "-c", str(connections), "-R", str(rate),
                "-d", f"{duration}s", "-w", f"{WARM_UP_S}s", "--output-format", "ndjson"]
        client = stack.enter_context(Process(load, setup.client_cpus))
        ordered, texts = set(), []
        while True:
            line = json.loads(client.read_line(120))
            if line["type"] != "second":
                return without_bulk(line), ordered, texts
            if line["second"] % SECONDS_EACH == 1 and len(ordered) < upgrades:
                _has_ended(successors[-2:-1])
                ask = [command[0], "ctl", "--admin", admin, "--token-file", token, "upgrade"]
                reply = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
                successors.append(int(re.match(r"process (\d+) has taken over", reply).group(1)))
                ordered.add(line["second"])
                texts.append(reply.strip())


def _has_ended(processes):
    """Waits until all connections have moved from the process before the one that runs."""
    begun = time.monotonic()
    while any(map(_runs, processes)):
        if time.monotonic() - begun > MOVE_SECONDS_MAX:
            raise SystemExit("figures: connections have not moved")
        time.sleep(0.01)


def _runs(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def _end(processes):
    for process in filter(_runs, processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
