# A hub with many clients: how fast one client's messages reach 2,000 clients, and how clients that
# never read affect the others.
#
# The load generator checks that each client gets each message once, in order, with the right bytes.
# If a check fails, this script exits. The server has half of the CPUs, the clients the other half.

import json
import os
import random
import re
import subprocess
import tempfile

from process import Server, settle
from report import Figure, Table
from statistic import format_interval, median_with_interval

LOADGEN = "target/release/loadgen"
RUN_SECONDS_MAX = 600
MESSAGE_BYTES = 100

CROWD = {"clients": 2_000, "messages": 1_000}
# 6.7 MB per client: more than the 4.3 MB that the kernel's buffers and the hub's queue hold for a
# client that does not read.
SLOW = {"clients": 1_000, "never_read": 10, "message_bytes": 16_000, "rate": 30, "seconds": 14}


def measure(setup):
    random.seed(1)
    crowd = _crowd(setup)
    slow = _slow(setup)
    table = Table(["case", "messages/s", "deliveries/s", "p50 ms", "p99 ms", "missing", "dropped",
                   "most buffers held", "peak memory, MiB"], left=1)
    for title, runs in [
            (f"{crowd[0]['clients']:,} clients, one sends {crowd[0]['messages']:,} messages", crowd),
            (f"{slow[0]['with']['clients']:,} clients, all read", [each["without"] for each in slow]),
            (f"{slow[0]['with']['never_read']} of them never read", [each["with"] for each in slow])]:
        _add_row(table, title, runs)
    ratios = [each["with"]["p99_ns"] / each["without"]["p99_ns"] for each in slow]
    wall = median_with_interval([each["elapsed_s"] for each in crowd])
    first = slow[0]["with"]
    notes = [
        f"Many clients: messages of {MESSAGE_BYTES} B, each sent when the sender has received its"
        f" own copy of the previous one; all deliveries together take {wall[0]:.2f} s. Medians of"
        f" {len(crowd)} runs.",
        f"Clients that never read: messages of {first['message_bytes']:,} B at"
        f" {first['rate']:,} messages/s for {first['seconds']} s; latency counts from when a"
        f" message was due. p99 of delivery to the others, with such clients divided by without:"
        f" {format_interval(median_with_interval(ratios))}, of {len(slow)} pairs of runs.",
        "Missing: deliveries to clients that read. Dropped: messages of a run that the hub did not"
        " send to clients that do not read. Buffers are sampled every 100 ms. Memory is the peak"
        " of the server's resident memory (VmHWM), including the program; its own sum at start is"
        f" {first['sum_mib']:.1f} MiB. A test shows that nothing is allocated per message"
        " (`cargo test --test allocations`).",
    ]
    return Figure("hub", "A hub with many clients", table, {"crowd": crowd, "slow": slow}, notes)


def _crowd(setup):
    clients = 200 if setup.quick else CROWD["clients"]
    messages = 100 if setup.quick else CROWD["messages"]
    flags = ["-n", str(messages), "-l", str(MESSAGE_BYTES)]
    runs = []
    for _ in range(1 if setup.quick else 5):
        run = _run(setup, clients, flags)
        runs.append({"clients": clients, "messages": messages, **run})
    print("  many clients: done", flush=True)
    return runs


def _slow(setup):
    what = dict(SLOW, clients=100, never_read=2, seconds=1) if setup.quick else SLOW
    flags = ["-R", str(what["rate"]), "-d", f"{what['seconds']}s",
             "-l", str(what["message_bytes"])]
    rude = ["--never-read", str(what["never_read"])]
    pairs = []
    for _ in range(1 if setup.quick else 6):
        sides = [("without", []), ("with", rude)]
        random.shuffle(sides)
        pairs.append({
            side: {**what, **_run(setup, what["clients"], flags + more)} for side, more in sides})
    print("  clients that never read: done", flush=True)
    return pairs


def _run(setup, clients, flags):
    """One run with its own server."""
    half = len(setup.all_cpus) // 2
    client_cpus, server_cpus = setup.all_cpus[:half], setup.all_cpus[half:]
    command = setup.echopool("hub://127.0.0.1:0", workers=len(server_cpus))
    command = [*command[:-1], "info", "--stats-interval", "100ms",
               "--max-connections", str(clients + 16)]
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
        with Server(command, server_cpus, log.name) as server:
            settle(server)
            before_ns = server.cpu_ns()
            server.reset_peak()
            report = _loadgen(server, client_cpus, clients, flags)
            run = _figures(report)
            run["server_cpu_s"] = (server.cpu_ns() - before_ns) / 1e9
            run["memory_peak_kib"] = server.memory_kib()["VmHWM"]
        text = log.read()
    run["buffers_held_max"] = max(
        (int(held) for held in re.findall(r"buffers_held=(\d+)", text)), default=0)
    run["dropped_by_server"] = int(re.findall(r"messages_dropped=(\d+)", text)[-1])
    run["sum_mib"] = float(re.search(r"total\s+([\d.]+) MiB", text).group(1))
    return run


def _loadgen(server, cpus, clients, flags):
    command = [LOADGEN, f"hub://{server.address}", "-c", str(clients), "-t", str(len(cpus)),
               "--timeout", "60s", "--output-format", "json", *flags]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
        timeout=RUN_SECONDS_MAX, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    if not ended.stdout:
        raise SystemExit(f"figures: {' '.join(command)} ended with {ended.returncode}")
    report = json.loads(ended.stdout)
    # A generator-limited run is accepted: its delay is in the latencies of both sides.
    if report["verdict"] not in ("valid", "generator-limited"):
        raise SystemExit(f"figures: {' '.join(command)}: {report['verdict_text']},"
                         f" errors {report['errors']}, {report['hub']}")
    return report


def _figures(report):
    hub = report["hub"]
    return {
        "verdict": report["verdict_text"],
        "elapsed_s": report["elapsed_ns"] / 1e9,
        "messages_per_second": report["requests_per_second"],
        "deliveries": hub["deliveries"] + hub["deliveries_late"],
        "deliveries_per_second": hub["deliveries_per_second"],
        "dropped": hub["deliveries_dropped"],
        "missing": hub["deliveries_missing"],
        "p50_ns": report["latency"]["p50_ns"],
        "p99_ns": report["latency"]["p99_ns"],
        "max_ns": report["latency"]["max_ns"],
    }


def _add_row(table, title, runs):
    def median(key):
        return median_with_interval([run[key] for run in runs])[0]

    table.add(title, f"{median('messages_per_second'):,.0f}",
              f"{median('deliveries_per_second'):,.0f}",
              f"{median('p50_ns') / 1e6:.2f}", f"{median('p99_ns') / 1e6:.2f}",
              sum(run["missing"] + run["dropped"] for run in runs),
              f"{median('dropped_by_server'):,.0f}",
              max(run["buffers_held_max"] for run in runs),
              f"{max(run['memory_peak_kib'] for run in runs) / 1024:.1f}")
