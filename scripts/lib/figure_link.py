# The emulated link (`loadgen link`): what the load generator, ping, sockperf and iperf3 measure
# through it, against what it was told.
#
# A round trip takes the delays of both ways and the time of the echo itself. The delays are drawn
# from a known distribution. The same link without a delay measures the echo, with each tool. The sum
# of a draw of each gives the percentiles that a tool should find.

import collections
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import tempfile

from report import Figure, Table

# Allowed difference: this fraction of the known time or this time, whichever is larger.
PART_MAX = 0.02
US_MAX = 100

# The last is not judged, because few packets lie beyond it.
PERCENTILES = [50, 75, 90, 99, 99.9]
POINTS = [0, *PERCENTILES, 100]
JUDGED = {50, 75, 90, 99}
FAR = "198.18.0.2"
DRAWS = 200_000

# Times are in ms, and parts in percent.
Case = collections.namedtuple("Case", "title flags delay jitter reorder")
CASES = [
    Case("10 ms each way", [], 10, 0, 0),
    Case("10 ms +- 1 ms each way", [], 10, 1, 0),
    Case("10 ms +- 1 ms, 0.1 % lost, 100 Mbit/s, each way", ["--loss", "0.1%"], 10, 1, 0),
    Case("1 ms, 1 % sent ahead, each way", [], 1, 0, 1),
]
FLOOR = Case("no delay", [], 0, 0, 0)
RATE_MBIT = 100


def measure(setup):
    for tool in ["ping", "sockperf", "iperf3", "chrt"]:
        if not shutil.which(tool):
            raise SystemExit(f"figures: {tool} is not installed")
    raw = {case.title: _run(setup, case) for case in [FLOOR, *CASES]}
    table = Table(["link", "tool", "percentile", "told us", "with the echo us", "measured us",
                   "difference us", "allowed us", "within"])
    for case in CASES:
        _add_rows(table, case, raw[FLOOR.title]["tools"], raw[case.title]["tools"])
    counts = {title: _check_counts(title, run) for title, run in raw.items()}
    goodput = raw[CASES[0].title]["iperf3_mbit"]
    notes = [
        "A packet's delay is drawn evenly from the delay less the jitter to the delay plus the"
        " jitter, for each way by itself. `Told` are the percentiles of the sum of both ways."
        " `With the echo` are those of the sum of that and of the echo on a link without a delay, as"
        " the same tool measures it: what the machine adds to a round trip is in both. Allowed is 2 %"
        " of this or 100 us, whichever is larger. The 99.9th percentile is not judged, because few"
        " packets lie beyond it. sockperf and loadgen send UDP, ping ICMP."
        " sockperf gives no figures if one of its packets was lost.",
        "All tools and servers run with "
        + ("the real-time priority of the link's threads. Without it, the tails are those of the"
           " scheduler." if _priority() else "the usual priority: real-time priority was refused."),
        "Counts, by the link and by loadgen: " + "; ".join(
            f"{title}: {lost} datagrams lost, {late} out of order, equal"
            for title, (lost, late) in counts.items()) + ".",
        f"iperf3 over TCP at {RATE_MBIT} Mbit/s of IP packets: {goodput:.1f} Mbit/s of payload"
        f" ({_payload_mbit():.1f} fit into it).",
        "How late packets left, p50 and p99: " + "; ".join(
            f"{title}: {_late(run)}" for title, run in raw.items()) + "."]
    return Figure("link", "The emulated link against what it was told", table, raw, notes)


def _flags(case):
    rate = ["--rate", f"{RATE_MBIT}mbit"] if case is not FLOOR else []
    return ["--delay", f"{case.delay}ms", "--jitter", f"{case.jitter}ms", "--reorder",
            f"{case.reorder}%/0%", "--seed", "1", *case.flags, *rate]


def _run(setup, case):
    """The tools one after the other on the same link, and loadgen alone on another of its kind,
    whose counts are its own."""
    seconds = 1 if setup.quick else 8
    pings = 100 * seconds
    tools = (f"ping -n -i 0.01 -c {pings} {FAR}; "
             f"sockperf ping-pong -i {FAR} -p 11111 -t {seconds} -m 64 --full-rtt; "
             f"iperf3 -c {FAR} -t {seconds} -J")
    far = "sockperf server -i 0.0.0.0 -p 11111 & exec iperf3 -s"
    out, _ = _link(setup, case, far, ["/bin/sh", "-c", tools])
    echo = f"udp://{FAR}:7"
    load = ["target/release/loadgen", echo, "-c", "1", "-t", "1", "-R", "500", "-p", "2048",
            "--timeout", "3s", "-d", f"{2 * seconds}s", "--output-format", "json"]
    daemon = f"exec target/release/echopool --listen {echo} --workers 1 --log warn"
    report, link = _link(setup, case, daemon, load)
    run = json.loads(report)
    latency = run["latency"]
    keys = {0: "min_ns", 50: "p50_ns", 75: "p75_ns", 90: "p90_ns", 99: "p99_ns", 99.9: "p99_9_ns",
            100: "max_ns"}
    print(f"  {case.title}: {run['verdict_text']}", flush=True)
    return {
        "tools": {
            "loadgen": {p: latency[key] / 1e3 for p, key in keys.items()},
            "ping": _percentiles(_of_ping(out)),
            "sockperf": _of_sockperf(out),
        },
        "iperf3_mbit": _of_iperf3(out),
        "datagrams": run["datagrams"],
        "link": link,
    }


def _link(setup, case, far, near):
    """Runs a command behind a link. Both ends and the link share all CPUs, as a user's would: on
    those of the clients alone, which may be one, they would wait for each other."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [*_priority(), "target/release/loadgen", "link", *_flags(case), "-o", file.name, "--far", far,
                   "--", *near]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False,
                              preexec_fn=lambda: os.sched_setaffinity(0, setup.all_cpus))
        # 4: a busy machine made the generator late.
        if done.returncode not in (0, 4):
            raise SystemExit(f"figures: {' '.join(command)}: {done.stderr}")
        with open(file.name, encoding="utf-8") as written:
            link = json.load(written)
    for way in ["there", "back"]:
        del link[way]["late"]["histogram_v2_deflate_base64"]
    return done.stdout, link


def _priority():
    """The prefix of a command that gives it the priority of the link's threads, if permitted."""
    prefix = ["chrt", "--rr", "1"]
    tried = subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL, check=False)
    return prefix if tried.returncode == 0 else []


def _of_ping(out):
    return [float(ms) * 1e3 for ms in re.findall(r"time=([\d.]+) ms$", out, re.MULTILINE)]


def _of_sockperf(out):
    found = {float(p): float(us) for p, us in
             re.findall(r"percentile ([\d.]+) =\s+([\d.]+)", out)}
    for end, p in [("MIN", 0), ("MAX", 100)]:
        found.update((p, float(us)) for us in re.findall(rf"<{end}> observation =\s+([\d.]+)", out))
    return {p: found[p] for p in POINTS if p in found}


def _of_iperf3(out):
    report = json.loads(out[out.rindex("\n{\n") + 1:])
    return report["end"]["sum_received"]["bits_per_second"] / 1e6


def _percentiles(values):
    ordered = sorted(values)
    return {p: ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in POINTS}


def _known(case, floor):
    """The percentiles of the delays of a round trip in us, and of their sum with an echo's time."""
    rng = random.Random(1)

    def way(reorder):
        ahead = rng.random() * 100 < reorder
        return 0 if ahead else case.delay + case.jitter * (2 * rng.random() - 1)

    delays = [1e3 * (way(case.reorder) + way(0)) for _ in range(DRAWS)]
    return _percentiles(delays), _percentiles([us + _draw(rng, floor) for us in delays])


def _draw(rng, percentiles):
    """A draw from a distribution of which percentiles are known, straight between them."""
    at = 100 * rng.random()
    points = sorted(percentiles.items())
    (low, from_us), (high, to_us) = next(
        pair for pair in itertools.pairwise(points) if pair[1][0] >= at)
    return from_us + (to_us - from_us) * (at - low) / (high - low)


def _add_rows(table, case, floors, tools):
    for tool, measured in tools.items():
        if not measured:
            continue
        told, known = _known(case, floors[tool])
        for percentile in PERCENTILES:
            us = measured[percentile]
            difference = us - known[percentile]
            allowed = max(PART_MAX * known[percentile], US_MAX)
            within = "yes" if abs(difference) <= allowed else "no"
            table.add(case.title, tool, f"{percentile:g}", f"{told[percentile]:,.0f}",
                      f"{known[percentile]:,.0f}", f"{us:,.0f}", f"{difference:+,.0f}",
                      f"{allowed:,.0f}", within if percentile in JUDGED else "-")


def _check_counts(title, run):
    """The counts of loadgen are those of the link."""
    link, found = run["link"], run["datagrams"]
    ways = [link["there"], link["back"]]
    gone = sum(way["packets_lost"] + way["packets_dropped"] for way in ways)
    if found["sent"] != link["there"]["packets_in"] or found["lost"] != gone:
        raise SystemExit(f"figures: {title}: {found}, but the link says {link}")
    return found["lost"], found["out_of_order"]


def _payload_mbit():
    """Of 1500 bytes of a packet, TCP with time-stamps carries 1448."""
    return RATE_MBIT * 1448 / 1500


def _late(run):
    late = run["link"]["there"]["late"]
    return f"{late['p50_ns'] / 1e3:,.0f} us and {late['p99_ns'] / 1e3:,.0f} us"
