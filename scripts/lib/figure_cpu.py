# Server CPU per echo, rate, latency and evenness, as ratios to the epoll floor.
#
# All servers of a case run at the same time, with all their connections. Only one is driven at a
# time, for a slice of half a second, in a new random order in each round. Ratios are formed within
# a round, so that a slow drift of the machine affects both sides equally.

import contextlib
import random
import time

from process import Client, Load, Server
from report import Figure, Table
from statistic import format_interval, median_with_interval

CASES = [
    ("64 B, 1 connection", Load(1)),
    ("64 B, 100 connections", Load(100)),
    ("64 B, 1,000 connections", Load(1_000)),
    ("64 B, 10,000 connections", Load(10_000)),
    ("4 KiB, 1,000 connections", Load(1_000, size=4096)),
    ("16 KiB, 100 connections, 4 in flight", Load(100, size=16384, pipeline=4)),
]


def measure(setup):
    # The order is random in each round. The fixed seed makes a run repeatable.
    random.seed(1)
    raw = {}
    table = Table(["case", "server", "CPU us/echo", "CPU ratio (95 %)", "echoes/s",
                   "rate ratio (95 %)", "p50 us", "p99 us", "busiest/quietest"])
    for title, load in CASES:
        if setup.case and setup.case not in title:
            continue
        scaled = setup.scaled(load)
        servers = {name: (command, scaled) for name, command in setup.servers.items()}
        rounds = measure_case(setup, servers, sample)
        if scaled != load:
            title += f" (quick: {scaled.connections})"
        raw[title] = rounds
        _add_rows(table, title, rounds, list(setup.servers))
        print(f"  {title}: done", flush=True)
    notes = [f"Ratios are to `{setup.floor}`; each is the median of the ratios of {setup.rounds}"
             f" rounds of {setup.slice_s} s slices, with the 95 % interval of that median."]
    return Figure("cpu", "CPU per echo, rate and latency", table, raw, notes)


def measure_case(setup, servers, sample):
    """Returns for each round the sample of each server by name. `servers` has the command and the load
    of each, and `sample` is called with a server, its client and the length of a slice."""
    with contextlib.ExitStack() as stack:
        pairs = {}
        for name, (command, load) in servers.items():
            server = stack.enter_context(Server(command, [setup.server_cpu]))
            client = stack.enter_context(
                Client(setup.floor_binary, server.address, load, setup.client_cpus))
            client.each(1)
            client.slice(setup.slice_s)
            pairs[name] = (server, client)
        rounds = []
        for _ in range(setup.rounds):
            names = list(pairs)
            random.shuffle(names)
            rounds.append({name: sample(*pairs[name], setup.slice_s) for name in names})
        return rounds


def sample(server, client, seconds):
    """The client's report of a slice, with the CPU time that the server used."""
    before_ns = server.cpu_ns()
    report = client.slice(seconds)
    # The last reply has arrived. Once the server sleeps, its CPU time is complete.
    time.sleep(0.005)
    report["server_cpu_ns"] = server.cpu_ns() - before_ns
    report["cpu_us_per_echo"] = report["server_cpu_ns"] / report["messages"] / 1e3
    return report


def _add_rows(table, title, rounds, names):
    floor = names[0]
    for name in names:
        def median(key, name=name):
            return median_with_interval([each[name][key] for each in rounds])[0]

        def ratio(key, name=name):
            if name == floor:
                return "1"
            return format_interval(
                median_with_interval([each[name][key] / each[floor][key] for each in rounds]))

        busiest = median("busiest")
        quietest = median("quietest")
        table.add(title, name, f"{median('cpu_us_per_echo'):.2f}", ratio("cpu_us_per_echo"),
                  f"{median('per_second'):,.0f}", ratio("per_second"),
                  f"{median('p50_us'):,.0f}", f"{median('p99_us'):,.0f}",
                  f"{busiest / max(quietest, 1):.2f}")
