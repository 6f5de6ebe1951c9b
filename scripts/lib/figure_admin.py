# CPU per echo with the page of the admin address open and its metrics scraped, against without.
#
# Both servers run at the same time, each with all of its connections, and are driven in turn, as in
# figure_cpu.py. One of them is asked all the time for what an open page asks for, and for the metrics,
# once per second. Slices are long enough for that.

import contextlib
import http.client
import os
import random
import threading
import time

from process import Client, Load, Server, own_port
from report import Figure, Table
from statistic import format_interval, median_with_interval

LOAD = Load(10_000)
CLIENTS = "/api/v1/clients?offset=0&limit=100&sort=id&order=asc&filter="


class OpenPage:
    """Asks as an open page does, and as a Prometheus that scrapes once per second. Use as a context
    manager."""

    def __init__(self, address):
        self.address = address
        self.over = threading.Event()
        self.asked = 0
        self.threads = [threading.Thread(target=work) for work in (self.events, self.ask)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def events(self):
        while not self.over.is_set():
            connection = http.client.HTTPConnection(self.address, timeout=20)
            connection.request("GET", "/api/v1/events")
            reply = connection.getresponse()
            while not self.over.is_set() and reply.readline():
                pass
            connection.close()

    def ask(self):
        while not self.over.wait(1):
            for path in (CLIENTS, "/metrics"):
                connection = http.client.HTTPConnection(self.address, timeout=20)
                connection.request("GET", path)
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    raise SystemExit(f"figures: {path}: {reply.status}")
                connection.close()
            self.asked += 1


def own_address():
    """An address of a port of its own. The ready line with a port that the system has chosen would come
    together with the first one, behind which `Process.read_line` would not find it."""
    return f"127.0.0.1:{own_port()}"


def cpu_by_thread(server):
    """CPU time in ns of the workers, and of all threads."""
    workers, total = 0, 0
    for task in os.listdir(f"/proc/{server.pid}/task"):
        directory = f"/proc/{server.pid}/task/{task}"
        try:
            with open(directory + "/schedstat", encoding="ascii") as file:
                spent = int(file.read().split()[0])
            with open(directory + "/comm", encoding="ascii") as file:
                name = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue  # A thread that has just ended. It had little to do.
        total += spent
        if name.startswith("worker-"):
            workers += spent
    return workers, total


def sample(server, client, seconds):
    before = cpu_by_thread(server)
    report = client.slice(seconds)
    time.sleep(0.005)
    after = cpu_by_thread(server)
    workers, total = (b - a for a, b in zip(before, after))
    report["workers_us_per_echo"] = workers / report["messages"] / 1e3
    report["process_us_per_echo"] = total / report["messages"] / 1e3
    return report


def measure(setup):
    random.seed(1)
    load = setup.scaled(LOAD)
    plain = setup.echopool("127.0.0.1:0", 1)
    commands = {"without": plain, "again without": plain,
                "open page": [*plain, "--admin", own_address()]}
    with contextlib.ExitStack() as stack:
        pairs = {}
        for name, command in commands.items():
            server = stack.enter_context(Server(command, [setup.server_cpu]))
            if "--admin" in command:
                page = stack.enter_context(OpenPage(command[-1]))
            client = stack.enter_context(
                Client(setup.floor_binary, server.address, load, setup.client_cpus))
            client.each(1)
            client.slice(setup.slice_s)
            pairs[name] = (server, client)
        rounds = []
        for _ in range(setup.rounds_fair):
            names = list(pairs)
            random.shuffle(names)
            rounds.append({name: sample(*pairs[name], setup.slice_fair_s) for name in names})
        asked = page.asked
    table = Table(["server", "workers us/echo", "ratio (95 %)", "process us/echo", "ratio (95 %)",
                   "echoes/s"], left=1)
    for name in commands:
        def median(key, name=name):
            return median_with_interval([each[name][key] for each in rounds])[0]

        def ratio(key, name=name):
            if name == "without":
                return "1"
            values = [each[name][key] / each["without"][key] for each in rounds]
            return format_interval(median_with_interval(values))

        table.add(name, f"{median('workers_us_per_echo'):.2f}", ratio("workers_us_per_echo"),
                  f"{median('process_us_per_echo'):.2f}", ratio("process_us_per_echo"),
                  f"{median('per_second'):,.0f}")
    notes = [f"{load.connections:,} connections, 64 B, one worker. The page and the metrics were asked"
             f" for {asked} times, once per second. Medians of {setup.rounds_fair} rounds of"
             f" {setup.slice_fair_s} s slices. Workers are the data path; the process has the admin"
             " thread too, on the same processor."]
    raw = {"connections": load.connections, "asked": asked, "rounds": rounds}
    return Figure("admin", "CPU per echo with the page of the admin address open", table, raw, notes)
