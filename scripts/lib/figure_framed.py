# Server CPU per framed echo against a plain one: the cost of finding the frame.
#
# As in figure_cpu, both servers run at the same time, one is driven at a time for a slice, and
# ratios are formed within a round.

import contextlib
import random

from figure_cpu import sample
from process import Client, Load, Server
from report import Figure, Table
from statistic import format_interval, median_with_interval

PAYLOAD_BYTES = 64
LENGTH_BYTES = 4
CASES = [("100 connections", 100), ("1,000 connections", 1_000)]

# The same program and the same bytes, except for the length in front of each message.
KINDS = {
    "echo": ("tcp", Load(0, size=PAYLOAD_BYTES)),
    "framed": ("framed", Load(0, size=LENGTH_BYTES + PAYLOAD_BYTES, length_bytes=LENGTH_BYTES)),
}


def measure(setup):
    random.seed(1)
    raw = {}
    table = Table(["case", "service", "CPU us/message", "CPU ratio (95 %)", "messages/s",
                   "rate ratio (95 %)", "p50 us", "p99 us"])
    for title, connections in CASES:
        scaled = setup.scaled(Load(connections)).connections
        rounds = _measure_case(setup, scaled)
        if scaled != connections:
            title += f" (quick: {scaled})"
        raw[title] = rounds
        _add_rows(table, title, rounds)
        print(f"  {title}: done", flush=True)
    notes = [f"{PAYLOAD_BYTES} B of payload in each message. Ratios are to the plain echo of the"
             f" same program; each is the median of the ratios of {setup.rounds} rounds of"
             f" {setup.slice_s} s slices, with the 95 % interval of that median. The target is a"
             " CPU ratio of at most 1.25."]
    return Figure("framed", "CPU per framed echo against a plain one", table, raw, notes)


def _measure_case(setup, connections):
    with contextlib.ExitStack() as stack:
        pairs = {}
        for kind, (scheme, load) in KINDS.items():
            load = load._replace(connections=connections)
            command = setup.echopool(f"{scheme}://127.0.0.1:0", workers=1)
            server = stack.enter_context(Server(command, [setup.server_cpu]))
            client = stack.enter_context(
                Client(setup.floor_binary, server.address, load, setup.client_cpus))
            client.each(1)
            client.slice(setup.slice_s)
            pairs[kind] = (server, client)
        rounds = []
        for _ in range(setup.rounds):
            kinds = list(pairs)
            random.shuffle(kinds)
            rounds.append({kind: sample(*pairs[kind], setup.slice_s) for kind in kinds})
        return rounds


def _add_rows(table, title, rounds):
    for kind in KINDS:
        def median(key, kind=kind):
            return median_with_interval([each[kind][key] for each in rounds])[0]

        def ratio(key, kind=kind):
            if kind == "echo":
                return "1"
            return format_interval(
                median_with_interval([each[kind][key] / each["echo"][key] for each in rounds]))

        table.add(title, kind, f"{median('cpu_us_per_echo'):.2f}", ratio("cpu_us_per_echo"),
                  f"{median('per_second'):,.0f}", ratio("per_second"),
                  f"{median('p50_us'):,.0f}", f"{median('p99_us'):,.0f}")
