# Floods: what an echo waits on a worker that is flooded, beside the same echo without the flood.
#
# One server has an echo listener and one of the flooded service, on the same worker. The load
# generator drives the echo at a low rate. `flooder.py` floods the other listener, at a lower
# priority, so that it takes no CPU from the load generator where both share one.
#
# A flood also takes CPU from everything else on the machine. To tell that apart, the same flood also
# goes to a second server on the same CPUs, while the echo is at the first.

import contextlib
import os
import random
import re

from process import Process, Server, loadgen_summary
from report import Figure, Table
from statistic import median_with_interval

FLOODER = ["nice", "-n", "10", "python3", "scripts/lib/flooder.py"]
BROADCASTS = ["target/release/examples/broadcasts"]
ECHO_FLAGS = ["-c", "5", "-t", "1", "-R", "200", "-l", "64"]

# Title, listener, kind of flood, connections, workers.
FLOODS = [
    ("delimited messages, logged", "message://127.0.0.1:0?after=keep", "message", 40, 1),
    ("delimited messages, not logged", "message://127.0.0.1:0?after=keep&show=0", "message", 40, 1),
    ("trickling frames", "framed://127.0.0.1:0", "frames", 500, 1),
    ("discard", "discard://127.0.0.1:0", "discard", 40, 1),
    ("chargen", "chargen://127.0.0.1:0", "chargen", 40, 1),
    ("hub, broadcasts on the same worker", "hub://127.0.0.1:0?notices=off", "hub-broadcasts", 1000, 1),
    ("hub, broadcasts on two workers", "hub://127.0.0.1:0?notices=off", "hub-broadcasts", 1000, 2),
    ("hub, lists", "hub://127.0.0.1:0?notices=off", "hub-lists", 1000, 1),
    ("broadcasts from other threads", None, "broadcasts", 100, 1),
]


def measure(setup):
    random.seed(3)
    table = Table(["flood", "connections", "idle p50 ms", "p99 ms", "elsewhere p50 ms", "p99 ms",
                   "flooded p50 ms", "p99 ms", "p99 above idle ms", "above elsewhere ms", "max ms",
                   "flood MiB/s"], left=1)
    raw = {}
    for title, listener, kind, count, workers in FLOODS:
        if setup.case and setup.case not in title:
            continue
        count = min(count, 100) if setup.quick else count
        with contextlib.ExitStack() as stack:
            rounds = _rounds(setup, stack, listener, kind, count, workers)
        raw[title] = rounds
        _add_row(table, title, count, rounds)
        print(f"  {title}: done", flush=True)
    notes = [
        "The echo: 5 connections, 200 messages/s of 64 B in all, on the worker that is flooded (with"
        " two workers, on both). Latency counts from when a message was due. Medians of"
        f" {len(next(iter(raw.values())))} rounds, each of a run of {_seconds(setup)} s without the"
        " flood, one with it, and one in which it goes to a second server on the same CPUs"
        " (*elsewhere*), in random order; max is that of all rounds with the flood. The flood is what"
        " its client sent and received; it is one thread of Python.",
    ]
    return Figure("floods", "An echo beside floods of its worker", table, raw, notes)


def _seconds(setup):
    return 1 if setup.quick else 4


def _rounds(setup, stack, listener, kind, count, workers):
    echoes, floods = {}, {"idle": []}
    for side in ["flooded", "elsewhere"]:
        echoes[side], target, floods[side] = _start(setup, stack, listener, count, workers)
        flooder = stack.enter_context(
            Process([*FLOODER, kind, target, str(count)], setup.client_cpus[:1]))
        flooder.read_line(60)
        floods[side].append(flooder)
    rounds = []
    for _ in range(1 if setup.quick else setup.rounds_fair):
        sample = {}
        for side in random.sample(list(floods), len(floods)):
            sample[side] = _slice(setup, echoes["flooded"], floods[side])
        rounds.append(sample)
    return rounds


def _start(setup, stack, listener, count, workers):
    """The addresses of the echo and of what is flooded, and the processes that are told when."""
    cpus = setup.all_cpus[-workers:]
    if listener is None:
        server = stack.enter_context(Server(BROADCASTS, cpus))
        return server.address, _second_address(server), [server]
    command = [*setup.echopool("127.0.0.1:0", workers)[:-1], "info", "--listen", listener,
               "--max-connections", str(max(count, 500) + 16)]
    with open(os.devnull, "w", encoding="utf-8") as log:
        server = stack.enter_context(Server(command, cpus, log.name))
    return server.address, _second_address(server), []


def _second_address(server):
    # Both lines come at once, so that the second may be buffered.
    return re.search(r"([\d.]+:\d+)", server.child.stdout.readline()).group(1)


def _slice(setup, echo, flood):
    _switch(flood, True)
    report = loadgen_summary(echo, [*ECHO_FLAGS, "-d", f"{_seconds(setup)}s"], setup.client_cpus)
    replies = _switch(flood, False)
    flood_bytes = sum(int(word) for word in replies[-1].split()) if flood else 0
    latency = report["latency"]
    return {
        "p50_ms": latency["p50_ns"] / 1e6,
        "p99_ms": latency["p99_ns"] / 1e6,
        "max_ms": latency["max_ns"] / 1e6,
        "verdict": report["verdict_text"],
        "flood_mib_per_second": flood_bytes / 2**20 / (report["elapsed_ns"] / 1e9),
        "replies": replies,
    }


def _switch(switches, on):
    replies = []
    for process in switches:
        process.child.stdin.write("on\n" if on else "off\n")
        process.child.stdin.flush()
        replies.append(process.read_line(60))
    return replies


def _add_row(table, title, count, rounds):
    def median(side, key):
        return median_with_interval([each[side][key] for each in rounds])[0]

    def above(side):
        return median_with_interval(
            [each["flooded"]["p99_ms"] - each[side]["p99_ms"] for each in rounds])[0]

    table.add(title, f"{count:,}", f"{median('idle', 'p50_ms'):.2f}",
              f"{median('idle', 'p99_ms'):.2f}", f"{median('elsewhere', 'p50_ms'):.2f}",
              f"{median('elsewhere', 'p99_ms'):.2f}", f"{median('flooded', 'p50_ms'):.2f}",
              f"{median('flooded', 'p99_ms'):.2f}", f"{above('idle'):.2f}",
              f"{above('elsewhere'):.2f}",
              f"{max(each['flooded']['max_ms'] for each in rounds):.1f}",
              f"{median('flooded', 'flood_mib_per_second'):,.0f}")
