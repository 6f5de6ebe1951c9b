# Truth: what the load generator measures for delays that can be calculated, over loopback.
#
# The daemon's delay service replies late by a known law. Theory gives each percentile of the
# latency. The same load without a delay measures the time of the echo itself, whose median is
# subtracted.

import collections
import math
import os

from process import Server, loadgen_summary, sleeper_lateness
from report import Figure, Table

# Allowed difference to theory: this fraction of it or this time, whichever is larger.
PART_MAX = 0.02
NS_MAX = 100_000

# Percentile -> key of the report. The last is not judged, because too few requests lie beyond it.
JUDGED = [(0.5, "p50_ns"), (0.75, "p75_ns"), (0.9, "p90_ns"), (0.99, "p99_ns")]
SHOWN = [(0.999, "p99_9_ns")]

Law = collections.namedtuple("Law", "title options rate arrivals seconds theory_ns")


def _stall(lasts_ns, every_ns):
    """Evenly spaced requests: those that arrive during a stall wait for its end."""
    return lambda p: max(0.0, lasts_ns - (1 - p) * every_ns)


def _queue(service_ns, rate):
    """M/M/1: the time in the system has an exponential distribution."""
    mean_ns = service_ns / (1 - rate * service_ns / 1e9)
    return lambda p: -math.log(1 - p) * mean_ns


LAWS = [
    # The run has whole intervals, so that each part of an interval gets equally many requests. The
    # rate is prime, so that requests fall on different places in each interval.
    Law("stall of 100 ms every 800 ms", "stall=100ms/800ms", 997, "const", 8,
        _stall(100e6, 800e6)),
    Law("always 10 ms", "fixed=10ms", 1_000, "const", 5, lambda p: 10e6),
    # Half of the server's capacity. Waiting times are correlated, so even 50,000 requests give the
    # 99th percentile only to about 35 us.
    Law("Poisson, one server with a queue, 200 us", "exp=200us&queue=1", 2_500, "poisson", 20,
        _queue(200e3, 2_500)),
]
FLOOR = "fixed=0s"
# Number of runs, of which the one is shown in which the generator was disturbed least. The
# generator's own lag decides, which is independent of theory. All runs are in the raw data.
RUNS = 3


# Whether idle threads of both ends poll or sleep.
MODES = {"polling": ["--busy-poll"], "sleeping": []}


def measure(setup):
    raw = {}
    table = Table(["delay", "threads", "percentile", "measured us", "less the echo's us",
                   "theory us", "difference us", "allowed us", "within"])
    for law in LAWS:
        raw[law.title] = {mode: _measure_law(setup, law, mode) for mode in MODES}
        for mode, found in raw[law.title].items():
            _add_rows(table, law, mode, found["floor"]["latency"]["p50_ns"], found["run"])
            print(f"  {law.title}, {mode}: {found['run']['verdict_text']}", flush=True)
    sleeper = sleeper_lateness(setup.floor_binary, setup.server_cpu, 300 if setup.quick else 5_000)
    raw["bare sleeper"] = sleeper
    notes = [
        "Latency counts from when a request was due. The echo's own time is the median of the same"
        " load without a delay (`fixed=0s`). Allowed is 2 % of theory or 100 us, whichever is"
        " larger. The 99.9th percentile is not judged, because few requests lie beyond it. The"
        f" table shows the run, of {RUNS}, with the smallest own lag (p99) of the generator, which"
        " other work on the machine disturbed least.",
        "`polling`: server and generator with `--busy-poll`. `sleeping`: without. Then a request"
        " waits four times for a thread to wake up: two timers, two sockets. A thread that only"
        " sleeps until each next millisecond woke up"
        f" {_us(sleeper['p50_ns'])} us (p50), {_us(sleeper['p90_ns'])} us (p90) and"
        f" {_us(sleeper['p99_ns'])} us (p99) late on this machine.",
        "Verdicts: " + "; ".join(
            f"{law.title}, {mode} (load average {found['run']['load_average']:.2f}):"
            f" {found['run']['verdict_text']}"
            for law in LAWS for mode, found in raw[law.title].items()) + "."]
    return Figure("truth", "Measured delays against calculated ones", table, raw, notes)


def _measure_law(setup, law, mode):
    seconds = 2.4 if setup.quick else law.seconds
    floors = [_run(setup, law, mode, FLOOR, 2.4) for _ in range(RUNS)]
    runs = [_run(setup, law, mode, law.options, seconds) for _ in range(RUNS)]
    return {"floor": _least_disturbed(floors), "run": _least_disturbed(runs), "all_runs": runs}


def _least_disturbed(runs):
    return min(runs, key=lambda run: run["own_lag"]["p99_ns"])


def _run(setup, law, mode, options, seconds):
    listen = f"delay://127.0.0.1:0?{options}&size=64"
    command = ["target/release/echopool", "--listen", listen, "--workers", "1", "--log", "warn",
               *MODES[mode]]
    with Server(command, [setup.server_cpu]) as server:
        flags = ["-c", "200", "-t", "1", "-R", str(law.rate), "--arrivals", law.arrivals,
                 "-d", f"{round(seconds * 1000)}ms", "-w", "200ms", "--seed", "1",
                 *MODES[mode]]
        load_average = os.getloadavg()[0]
        run = loadgen_summary(server.address, flags, setup.client_cpus)
        return {"load_average": load_average, **run}


def _add_rows(table, law, mode, floor_ns, run):
    for part, key in JUDGED + SHOWN:
        measured = run["latency"][key]
        theory = law.theory_ns(part)
        difference = measured - floor_ns - theory
        allowed = max(PART_MAX * theory, NS_MAX)
        within = "yes" if abs(difference) <= allowed else "no"
        table.add(law.title, mode, f"{part * 100:g}", _us(measured), _us(measured - floor_ns),
                  _us(theory), f"{difference / 1e3:+,.0f}", _us(allowed),
                  within if (part, key) in JUDGED else "-")


def _us(nanos):
    return f"{nanos / 1e3:,.0f}"
