# Server CPU per datagram against a bare recvmmsg/sendmmsg loop, and what is lost at 80 % of the
# ceiling.
#
# Both servers run at the same time, one is driven at a time for a slice, and ratios are formed
# within a round. The load generator drives them, and finds what became of each datagram.

import contextlib
import random
import time

from process import Server, loadgen_summary
from report import Figure, Table
from statistic import format_interval, median_with_interval

# Title, and flags of the load generator.
CASES = [
    ("64 B, 1 socket, 1 in flight", ["-c", "1", "-l", "64"]),
    # Their replies can leave together.
    ("64 B, 1 socket, 64 in flight", ["-c", "1", "--pipeline", "64", "-l", "64"]),
    ("64 B, 64 sockets, 4 in flight", ["-c", "64", "--pipeline", "4", "-l", "64"]),
    ("1,400 B, 64 sockets, 4 in flight", ["-c", "64", "--pipeline", "4", "-l", "1400"]),
]
# The case whose rate is the ceiling, and the part of it that is offered.
CEILING_CASE = CASES[2][0]
OFFERED = 0.8
GOAL = 1.10


def measure(setup):
    random.seed(1)
    raw = {}
    table = Table(["case", "server", "CPU us/datagram", "CPU ratio (95 %)", "datagrams/s", "lost"])
    commands = {
        "floor": [setup.floor_binary, "udp", "--listen", "127.0.0.1:0"],
        "echopool": setup.echopool("udp://127.0.0.1:0", workers=1),
    }
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(Server(command, [setup.server_cpu]))
                   for name, command in commands.items()}
        for title, flags in CASES:
            rounds = _rounds(setup, servers, flags)
            raw[title] = rounds
            _add_rows(table, title, rounds)
            print(f"  {title}: done", flush=True)
        ceiling = median_with_interval(
            [each["echopool"]["per_second"] for each in raw[CEILING_CASE]])[0]
        rate = int(ceiling * OFFERED)
        # With room for what a pause of the client delays.
        flags = ["-c", "64", "--pipeline", "256", "-l", "64", "-R", str(rate), "--timeout", "1s"]
        title = f"64 B, 64 sockets, {OFFERED:.0%} of the ceiling: {rate:,}/s"
        rounds = _rounds(setup, servers, flags)
        raw["at 80 % of the ceiling"] = rounds
        _add_rows(table, title, rounds)
    notes = [f"Ratios are to a bare loop of recvmmsg and sendmmsg (`floor udp`); each is the median"
             f" of the ratios of {setup.rounds} rounds of {setup.slice_s} s slices, with the 95 %"
             f" interval of that median. The goal is a CPU ratio of at most {GOAL:.2f}, and none"
             " lost at 80 % of the ceiling, which is that of this server with this load generator."
             " The server allocates nothing while it serves (tests/datagram_allocations.rs)."]
    return Figure("udp", "CPU per datagram against a bare loop", table, raw, notes)


def _rounds(setup, servers, flags):
    names = list(servers)
    for name in names:
        _sample(setup, servers[name], flags)
    rounds = []
    for _ in range(setup.rounds):
        random.shuffle(names)
        rounds.append({name: _sample(setup, servers[name], flags) for name in names})
    return rounds


def _sample(setup, server, flags):
    """What became of the datagrams of a slice, and the CPU time that the server used for them."""
    before_ns = server.cpu_ns()
    report = loadgen_summary(f"udp://{server.address}",
                             [*flags, "-t", "1", "-d", f"{round(setup.slice_s * 1000)}ms"], setup.client_cpus)
    time.sleep(0.005)
    cpu_ns = server.cpu_ns() - before_ns
    datagrams = report["datagrams"]
    served = datagrams["sent"] - datagrams["lost"]
    return {"cpu_us_per_datagram": cpu_ns / max(served, 1) / 1e3,
            "per_second": report["requests_per_second"], "lost": datagrams["lost"],
            "sent": datagrams["sent"], "verdict": report["verdict"]}


def _add_rows(table, title, rounds):
    for name in ["floor", "echopool"]:
        def median(key, name=name):
            return median_with_interval([each[name][key] for each in rounds])[0]

        ratio = "1" if name == "floor" else format_interval(median_with_interval(
            [each[name]["cpu_us_per_datagram"] / each["floor"]["cpu_us_per_datagram"]
             for each in rounds]))
        lost, sent = (sum(each[name][key] for each in rounds) for key in ("lost", "sent"))
        table.add(title, name, f"{median('cpu_us_per_datagram'):.2f}", ratio,
                  f"{median('per_second'):,.0f}", f"{lost:,} of {sent:,}")
