# Where the time went: the parts that the load generator finds against those that are known, over
# loopback.
#
# The daemon's timed service takes a fixed time for each request of a connection, one after the
# other. So its service time is known, and with several requests under way on each connection also
# how long a request waits for those before it.

import collections

from process import Server, loadgen_summary
from report import Figure, Table

# Allowed difference: this fraction of the known time or this time, whichever is larger.
PART_MAX = 0.02
NS_MAX = 20_000

PERCENTILES = [("50", "p50_ns"), ("75", "p75_ns"), ("90", "p90_ns"), ("99", "p99_ns")]
# More than these depend on how busy the machine is, and are shown only.
JUDGED = {"50", "75"}

# `waits_ns`: how long a request waits at the server for those of its connection before it.
Case = collections.namedtuple("Case", "title delay_ns flags waits_ns")
MS = 1_000_000
CASES = [
    Case("1 ms, open loop", MS, ["-c", "10", "-R", "500"], 0),
    Case("10 ms, open loop", 10 * MS, ["-c", "20", "-R", "500"], 0),
    Case("1 ms, four under way on a connection", MS, ["-c", "1", "-p", "4"], 3 * MS),
    Case("5 ms, two under way on each of two connections", 5 * MS, ["-c", "2", "-p", "2"], 5 * MS),
]


def measure(setup):
    raw = {}
    table = Table(["case", "part", "percentile", "measured us", "known us", "difference us",
                   "allowed us", "within"])
    for case in CASES:
        run = raw[case.title] = _run(setup, case)
        _add_rows(table, case, run["parts"])
        print(f"  {case.title}: {run['verdict_text']}", flush=True)
    sums = [run["parts"]["shares"]["requests"] == run["requests_completed"] for run in raw.values()]
    if not all(sums):
        raise SystemExit("a reply was not split into its parts")
    notes = [
        "Allowed is 2 % of the known time or 20 us, whichever is larger. Server and generator poll"
        " (`--busy-poll`), because a thread that sleeps wakes up late, which is a part of what the"
        " server does. Percentiles above the 75th are not judged: other work on the machine delays"
        " the server then. Each reply of each run was split into its parts, which add up to its"
        " latency.",
        "One way, there and back (p50): " + "; ".join(_ways(case, raw[case.title])
                                                      for case in CASES) + ".",
        "Verdicts: " + "; ".join(f"{case.title}: {raw[case.title]['verdict_text']}"
                                 for case in CASES) + "."]
    return Figure("parts", "Where the time went, against what is known", table, raw, notes)


def _run(setup, case):
    listen = f"timed://127.0.0.1:0?delay={case.delay_ns}ns"
    command = ["target/release/echopool", "--listen", listen, "--workers", "1", "--log", "warn",
               "--busy-poll"]
    seconds = "600ms" if setup.quick else "5s"
    with Server(command, [setup.server_cpu]) as server:
        flags = ["-t", "1", "-d", seconds, "-w", "200ms", "--seed", "1", "--busy-poll", *case.flags]
        target = f"timed://{server.address}"
        return loadgen_summary(target, flags, setup.client_cpus)


def _add_rows(table, case, parts):
    known = [("service", "server_service", case.delay_ns),
             ("waiting at the server", "server_wait", case.waits_ns),
             ("waiting for a connection", "connection_wait", 0)]
    for name, key, known_ns in known:
        for percentile, value in PERCENTILES:
            measured = parts[key][value]
            allowed = max(PART_MAX * known_ns, NS_MAX)
            within = "yes" if abs(measured - known_ns) <= allowed else "no"
            table.add(case.title, name, percentile, _us(measured), _us(known_ns),
                      f"{(measured - known_ns) / 1e3:+,.1f}", _us(allowed),
                      within if percentile in JUDGED else "-")


def _ways(case, run):
    ways = run["parts"]["one_way"]
    if ways is None:
        return f"{case.title}: unknown"
    there, back = (ways[way]["p50_ns"] / 1e3 for way in ("there", "back"))
    return (f"{case.title}: {there:,.1f} us and {back:,.1f} us, {ways['contradictions']}"
            " contradictions")


def _us(nanos):
    return f"{nanos / 1e3:,.1f}"
