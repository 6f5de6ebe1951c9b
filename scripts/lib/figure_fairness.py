# Fairness: how one connection that streams as fast as it can affects 999 quiet ones.

import contextlib
import random

from process import Client, Load, Server
from report import Figure, Table
from statistic import format_interval, median_with_interval

QUIET = Load(999, interval_ms=100)
HOT = Load(1, size=65536, pipeline=16)


def measure(setup):
    random.seed(2)
    quiet_load = setup.scaled(QUIET)
    raw = _measure_servers(setup, quiet_load)
    table = Table(["server", "quiet p50 us", "quiet p99 us", "with a hot one: p50 us", "p99 us",
                   "p99 ratio (95 %)", "max us", "hot MiB/s"], left=1)
    for name, rounds in raw.items():
        def median(kind, key, rounds=rounds):
            return median_with_interval([each[kind][key] for each in rounds])[0]

        ratios = [each["loaded"]["p99_us"] / each["alone"]["p99_us"] for each in rounds]
        table.add(
            name, f"{median('alone', 'p50_us'):,.0f}", f"{median('alone', 'p99_us'):,.0f}",
            f"{median('loaded', 'p50_us'):,.0f}", f"{median('loaded', 'p99_us'):,.0f}",
            format_interval(median_with_interval(ratios), 1),
            f"{max(each['loaded']['max_us'] for each in rounds):,.0f}",
            f"{median('hot', 'mib_per_second'):,.0f}")
    notes = [f"{quiet_load.connections} connections send 64 B every {quiet_load.interval_ms} ms,"
             " latency counts from when each was due. The hot one keeps 16 x 64 KiB in flight."
             f" Medians of {setup.rounds_fair} rounds. The CPU table shows how evenly equal"
             " connections are served (busiest/quietest)."]
    return Figure("fairness", "One hot connection among quiet ones", table, raw, notes)


def _measure_servers(setup, quiet_load):
    """Returns the rounds of each server: a slice of the quiet ones alone, and one with the hot one.

    As with CPU, all servers run at the same time and take turns, in a new random order each round.
    """
    # Quiet and hot clients have separate CPUs, so that only the server causes delays.
    hot_cpus, quiet_cpus = setup.client_cpus[:1], setup.client_cpus[1:] or setup.client_cpus
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, command in setup.servers.items():
            server = stack.enter_context(Server(command, [setup.server_cpu]))
            quiet = stack.enter_context(
                Client(setup.floor_binary, server.address, quiet_load, quiet_cpus))
            hot = stack.enter_context(Client(setup.floor_binary, server.address, HOT, hot_cpus))
            quiet.each(2)
            hot.each(16)
            clients[name] = (quiet, hot)
        raw = {name: [] for name in clients}
        for _ in range(setup.rounds_fair):
            for name in random.sample(list(clients), len(clients)):
                raw[name].append(_sample(*clients[name], setup.slice_fair_s))
        return raw


def _sample(quiet, hot, seconds):
    sample = {}
    for kind in random.sample(["alone", "loaded"], 2):
        if kind == "alone":
            sample[kind] = quiet.slice(seconds)
            continue
        # The hot client runs a little longer, so that the quiet ones are never alone.
        hot.begin(f"slice {seconds + 0.2}")
        sample[kind] = quiet.slice(seconds)
        sample["hot"] = hot.report()
        mib = sample["hot"]["bytes"] / 2**20
        sample["hot"]["mib_per_second"] = mib / sample["hot"]["elapsed_s"]
    return sample
