# Server CPU per framed echo against a plain one: the cost of finding the frame. And of a timed echo
# against a framed one: the cost of the times.
#
# As in figure_cpu, both servers run at the same time, one is driven at a time for a slice, and
# ratios are formed within a round.

import random

from figure_cpu import measure_case, sample
from process import Load
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

TIMES_BYTES = 32
TIMED_PAYLOAD = LENGTH_BYTES + TIMES_BYTES + PAYLOAD_BYTES

# The same bytes, and so the same system calls.
TIMED_KINDS = {
    "framed": ("framed", Load(0, size=TIMED_PAYLOAD, length_bytes=LENGTH_BYTES)),
    "timed": ("timed", Load(0, size=TIMED_PAYLOAD, length_bytes=LENGTH_BYTES + TIMES_BYTES)),
}


def measure(setup):
    notes = [f"{PAYLOAD_BYTES} B of payload in each message. Ratios are to the plain echo of the"
             f" same program; {_method(setup)} The target is a CPU ratio of at most 1.25."]
    return _figure(setup, KINDS, "framed", "CPU per framed echo against a plain one", notes)


def measure_timed(setup):
    notes = [f"{TIMED_PAYLOAD} B in each message, {TIMES_BYTES} of them times. Ratios are to the"
             f" framed echo of the same program; {_method(setup)} The target is a CPU ratio of at"
             " most 1.03."]
    return _figure(setup, TIMED_KINDS, "timed", "CPU per timed echo against a framed one", notes)


def _method(setup):
    return (f"each is the median of the ratios of {setup.rounds} rounds of {setup.slice_s} s"
            " slices, with the 95 % interval of that median.")


def _figure(setup, kinds, name, title_of_figure, notes):
    random.seed(1)
    raw = {}
    table = Table(["case", "service", "CPU us/message", "CPU ratio (95 %)", "messages/s",
                   "rate ratio (95 %)", "p50 us", "p99 us"])
    for title, connections in CASES:
        scaled = setup.scaled(Load(connections)).connections
        servers = {kind: (setup.echopool(f"{scheme}://127.0.0.1:0", workers=1),
                          load._replace(connections=scaled))
                   for kind, (scheme, load) in kinds.items()}
        rounds = measure_case(setup, servers, sample)
        if scaled != connections:
            title += f" (quick: {scaled})"
        raw[title] = rounds
        _add_rows(table, list(kinds), title, rounds)
        print(f"  {title}: done", flush=True)
    return Figure(name, title_of_figure, table, raw, notes)


def _add_rows(table, kinds, title, rounds):
    base = kinds[0]
    for kind in kinds:
        def median(key, kind=kind):
            return median_with_interval([each[kind][key] for each in rounds])[0]

        def ratio(key, kind=kind):
            if kind == base:
                return "1"
            return format_interval(
                median_with_interval([each[kind][key] / each[base][key] for each in rounds]))

        table.add(title, kind, f"{median('cpu_us_per_echo'):.2f}", ratio("cpu_us_per_echo"),
                  f"{median('per_second'):,.0f}", ratio("per_second"),
                  f"{median('p50_us'):,.0f}", f"{median('p99_us'):,.0f}")
