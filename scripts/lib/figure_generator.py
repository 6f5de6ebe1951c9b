# The limits of the load generator, and whether it reports them: how late it sends (lag), its
# verdict when it is deliberately slowed (limited), and its highest rate against that of a bare
# epoll client (ceiling).

import collections
import contextlib
import os
import random
import sys

from process import Client, Load, Process, Server, loadgen_summary, sleeper_lateness
from report import Figure, Table
from statistic import format_interval, median_with_interval

LAG_MAX_NS = 100_000
CEILING_MIN = 0.9
# Whether idle threads of the generator sleep or poll.
MODES = {"sleeping": [], "polling": ["--busy-poll"]}

Slowed = collections.namedtuple("Slowed", "title rate busy_loop")
SLOWED = [
    Slowed("20,000/s beside a busy loop", 20_000, True),
    Slowed("100,000/s beside a busy loop", 100_000, True),
    Slowed("20,000/s alone on its CPU", 20_000, False),
]


def measure_lag(setup):
    """10,000 requests a second over 1,000 connections, several runs, sleeping and polling."""
    runs, wake_ups = (2, 300) if setup.quick else (5, 3_000)
    raw = {mode: [] for mode in MODES}
    raw["bare sleeper"] = []
    for _ in range(runs):
        for mode, flags in MODES.items():
            raw[mode].append(_measure_lag_once(setup, flags))
        raw["bare sleeper"].append(
            sleeper_lateness(setup.floor_binary, setup.client_cpus[0], wake_ups))
    table = Table(["threads", "run", "load average", "send lag p50 us", "p99 us", "p99.9 us",
                   "max us", "latency p99 us", "verdict"], left=1)
    for mode in MODES:
        for number, run in enumerate(raw[mode], 1):
            lag = run["send_lag"]
            table.add(mode, number, f"{run['load_average']:.2f}", f"{lag['p50_ns'] / 1e3:.1f}",
                      f"{lag['p99_ns'] / 1e3:.1f}", f"{lag['p99_9_ns'] / 1e3:,.0f}",
                      f"{lag['max_ns'] / 1e3:,.0f}", f"{run['latency']['p99_ns'] / 1e3:.0f}",
                      run["verdict"])
    for number, lag in enumerate(raw["bare sleeper"], 1):
        table.add("bare sleeper", number, "-", f"{lag['p50_ns'] / 1e3:.1f}",
                  f"{lag['p99_ns'] / 1e3:.1f}", f"{lag['p99_9_ns'] / 1e3:,.0f}",
                  f"{lag['max_ns'] / 1e3:,.0f}", "-", "-")
    met = "; ".join(
        f"{sum(run['send_lag']['p99_ns'] <= LAG_MAX_NS for run in raw[mode])} of {runs} {mode}"
        for mode in MODES)
    notes = ["10,000 requests/s of 64 B over 1,000 connections from one thread, the server on a CPU"
             f" of its own. The 99th percentile is at most"
             f" 100 us in {met}. The figure needs an idle machine, because other work delays"
             " threads that wake up. `polling` is with `--busy-poll`. The bare sleeper is a thread"
             " that only sleeps until each next millisecond, between the runs: its lateness is the"
             " share of the machine."]
    return Figure("lag", "How late the generator sends", table, raw, notes)


def _measure_lag_once(setup, more_flags):
    with Server(setup.servers["echopool"], [setup.server_cpu]) as server:
        flags = ["-c", "1000", "-t", "1", "-R", "10000", "-w", "500ms",
                 "-d", _time(setup.count_seconds), *more_flags]
        load_average = os.getloadavg()[0]
        run = loadgen_summary(server.address, flags, setup.client_cpus)
        return {"load_average": load_average, **run}


def measure_limited(setup):
    """The generator on one CPU, beside a loop that never sleeps."""
    cpu = setup.client_cpus[-1:]
    raw = {case.title: [] for case in SLOWED}
    runs = 2 if setup.quick else 12
    with Server(setup.servers["echopool"], [setup.server_cpu]) as server:
        for case in SLOWED:
            with contextlib.ExitStack() as stack:
                if case.busy_loop:
                    loop = [sys.executable, "-c", "while True: pass"]
                    stack.enter_context(Process(loop, cpu))
                for _ in range(runs):
                    flags = ["-c", "100", "-t", "1", "-R", str(case.rate), "-d", "1s"]
                    raw[case.title].append(loadgen_summary(server.address, flags, cpu))
    table = Table(["case", "runs", "generator-limited", "valid", "own lag p99 us",
                   "latency p99 us", "busy %"], left=1)
    for title, each in raw.items():
        def middle(value, each=each):
            return median_with_interval([value(run) for run in each])[0]

        words = collections.Counter(run["verdict"] for run in each)
        table.add(title, len(each), words["generator-limited"], words["valid"],
                  f"{middle(lambda run: run['own_lag']['p99_ns']) / 1e3:,.0f}",
                  f"{middle(lambda run: run['latency']['p99_ns']) / 1e3:,.0f}",
                  f"{middle(lambda run: run['generator_busy_ratio']) * 100:.0f}")
    notes = ["Open loop, 100 connections, 64 B, one generator thread on one CPU, the server on"
             " another; runs of a second, medians. Beside the busy loop, no run may be valid. The"
             " same load alone shows that the verdict is not constant; there it depends on other"
             " work on the machine."]
    return Figure("limited", "The verdict on a generator that is deliberately slowed", table, raw,
                  notes)


def measure_ceiling(setup):
    """Closed loop at full speed, with one thread of each client and more threads of the server."""
    random.seed(3)
    raw = {}
    table = Table(["case", "bare client /s", "loadgen /s", "ratio (95 %)", "loadgen busy %"],
                  left=1)
    for connections in [100, 1_000]:
        load = setup.scaled(Load(connections))
        rounds = _measure_ceiling(setup, load)
        title = f"64 B, {load.connections:,} connections"
        raw[title] = rounds
        ratio = median_with_interval(
            [each["loadgen"]["requests_per_second"] / each["bare"]["per_second"]
             for each in rounds])

        def middle(value, rounds=rounds):
            return median_with_interval([value(each) for each in rounds])[0]

        table.add(title, f"{middle(lambda each: each['bare']['per_second']):,.0f}",
                  f"{middle(lambda each: each['loadgen']['requests_per_second']):,.0f}",
                  format_interval(ratio),
                  f"{middle(lambda each: each['loadgen']['generator_busy_ratio']) * 100:.0f}")
        print(f"  {title}: done", flush=True)
    notes = [f"One client thread on one CPU, echopool with {len(_sink_cpus(setup))} workers on as"
             " many others, so that the client is the limit. Both verify every byte and record"
             f" every latency. Ratios are medians of {setup.rounds} rounds of slices of"
             f" {setup.slice_s} s in random order, with the 95 % interval of that median;"
             f" the target is {CEILING_MIN}."]
    return Figure("ceiling", "The generator's highest rate against a bare epoll client", table, raw,
                  notes)


def _sink_cpus(setup):
    """CPUs of the server: all except the client's CPU, which is the first."""
    return [setup.server_cpu, *setup.client_cpus[1:]][:2]


def _measure_ceiling(setup, load):
    cpus = _sink_cpus(setup)
    client_cpu = setup.client_cpus[:1]
    command = [*setup.servers["echopool"]]
    command[command.index("--workers") + 1] = str(len(cpus))
    rounds = []
    with Server(command, cpus) as server:
        with Client(setup.floor_binary, server.address, load, client_cpu) as bare:
            bare.slice(setup.slice_s)
            for _ in range(setup.rounds):
                sample = {}
                for name in random.sample(["bare", "loadgen"], 2):
                    if name == "bare":
                        sample[name] = bare.slice(setup.slice_s)
                    else:
                        flags = ["-c", str(load.connections), "-t", "1",
                                 "-w", "50ms", "-d", _time(setup.slice_s)]
                        sample[name] = loadgen_summary(server.address, flags, client_cpu)
                rounds.append(sample)
    return rounds


def _time(seconds):
    return f"{round(seconds * 1000)}ms"
