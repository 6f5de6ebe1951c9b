# CPU per echo in the sandbox (`--sandbox`), against without. Each system call passes its filters.
#
# The servers run at the same time, each with all of its connections, and are driven in turn, as in
# figure_cpu.py. One connection makes the most system calls for an echo.

import contextlib
import random

from figure_admin import sample
from process import Client, Load, Server
from report import Figure, Table
from statistic import format_interval, median_with_interval

CASES = [("1 connection", Load(1)), ("1,000 connections", Load(1_000))]


def measure(setup):
    random.seed(1)
    plain = setup.echopool("127.0.0.1:0", 1)
    commands = {"without": plain, "again without": plain, "--sandbox": [*plain, "--sandbox"]}
    raw = {}
    table = Table(["case", "server", "workers us/echo", "ratio (95 %)", "echoes/s"], left=2)
    for title, load in CASES:
        raw[title] = rounds = _rounds(setup, setup.scaled(load), commands)
        for name in commands:
            def median(key, name=name, rounds=rounds):
                return median_with_interval([each[name][key] for each in rounds])[0]

            key = "workers_us_per_echo"
            ratios = [each[name][key] / each["without"][key] for each in rounds]
            ratio = "1" if name == "without" else format_interval(median_with_interval(ratios))
            table.add(title, name, f"{median(key):.3f}", ratio, f"{median('per_second'):,.0f}")
    notes = ["64 B, one worker. Ratios are to the first server, within each round of slices."]
    return Figure("sandbox", "CPU per echo in the sandbox", table, raw, notes)


def _rounds(setup, load, commands):
    with contextlib.ExitStack() as stack:
        pairs = {}
        for name, command in commands.items():
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
