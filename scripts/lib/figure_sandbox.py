# CPU per echo in the sandbox (`--sandbox`), against without. Each system call passes its filters.
#
# The servers run at the same time, each with all of its connections, and are driven in turn, as in
# figure_cpu.py. One connection makes the most system calls for an echo.

import random

from figure_admin import sample
from figure_cpu import measure_case
from process import Load
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
        servers = {name: (command, setup.scaled(load)) for name, command in commands.items()}
        raw[title] = rounds = measure_case(setup, servers, sample)
        for name in commands:
            def median(key, name=name, rounds=rounds):
                return median_with_interval([each[name][key] for each in rounds])[0]

            key = "workers_us_per_echo"
            ratios = [each[name][key] / each["without"][key] for each in rounds]
            ratio = "1" if name == "without" else format_interval(median_with_interval(ratios))
            table.add(title, name, f"{median(key):.3f}", ratio, f"{median('per_second'):,.0f}")
    notes = ["64 B, one worker. Ratios are to the first server, within each round of slices."]
    return Figure("sandbox", "CPU per echo in the sandbox", table, raw, notes)
