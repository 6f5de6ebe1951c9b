# Targets against each other: `loadgen ab` claims no difference between a server and itself, finds
# one of 50 us that the delay service makes, and puts three proxies in the same order each time.

import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
import time

from process import Process, Server, own_port
from report import Figure, Table

SAME_MAX = 0.05
FOUND_MIN = 0.95
ADDED_NS = 50_000
# Where packages are unpacked that are not installed. No service of them runs.
PACKAGES = "target/proxies"
STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
PROXIES = ["socat", "HAProxy", "nginx"]


def measure(setup):
    runs, repeats = (2, 1) if setup.quick else (20, 5)
    length = ["-d", "2s", "--rounds", "20"] if setup.quick else ["-d", "6s", "--rounds", "60"]
    proxied = _proxies(setup, repeats, length if setup.quick else ["-d", "12s", "--rounds", "60"])
    with _echo(setup, "tcp://127.0.0.1:0") as server:
        same = [_ab(setup, [server.address] * 2, length) for _ in range(runs)]
    # Both wait for a timer, and differ only in its time.
    delay = "delay://127.0.0.1:0?fixed={}us&size=64".format
    with _echo(setup, delay(500)) as first, _echo(setup, delay(550)) as second:
        added = [_ab(setup, [first.address, second.address], length) for _ in range(runs)]
    table = Table(["comparison", "p50: median of the runs", "result", "required"])
    claimed = sum(_claims(run) for run in same)
    table.add(f"an echo server with itself, {runs} runs", _middle(same, 0),
              f"a difference claimed in {claimed}", f"at most {int(runs * SAME_MAX)}")
    found = sum(_interval(run, 0)[0] > 0 for run in added)
    contains = sum(_interval(run, 0)[0] <= ADDED_NS <= _interval(run, 0)[1] for run in added)
    table.add(f"a delay of 550 us with one of 500 us, {runs} runs", _middle(added, 0),
              f"found in {found}, interval contains 50 us in {contains}",
              f"at least {int(runs * FOUND_MIN)}")
    orders = [sorted(PROXIES, key=lambda name: _p50(run, PROXIES.index(name))["difference_ns"])
              for run in proxied]
    for nth, name in enumerate(PROXIES):
        table.add(f"the echo server through {name}, {repeats} runs", _middle(proxied, nth), "", "")
    same_order = sum(order == orders[0] for order in orders)
    table.add("the order of the proxies", " < ".join(orders[0]), f"the same in {same_order}",
              f"{repeats} of {repeats}")
    raw = {"same": same, "added": added, "proxies": proxied}
    notes = [
        "Each run is `loadgen ab -c 4 -t 1 " + " ".join(length) + "`, in a closed loop (`-d 12s`"
        " for the proxies). Nothing is bound to a processor: on a busy machine, a part that is"
        " bound waits for the one that others use. A"
        " difference is claimed if one of the intervals (p50, p90, p99, mean, rate) does not"
        " include zero. Loads of the machine at the starts:"
        f" {_loads(same)}, {_loads(added)}, {_loads(proxied)}.",
        "Verdicts other than valid: " + (_verdicts(same + added + proxied) or "none") + "."]
    return Figure("ab", "Targets against each other", table, raw, notes)


def _echo(setup, listen):
    return Server(setup.echopool(listen, 1), setup.all_cpus)


def _ab(setup, targets, length):
    load_average = os.getloadavg()[0]
    command = ["target/release/loadgen", "ab", *targets, "-c", "4", "-t", "1", *length,
               "--output-format", "json", "--progress", "none"]

    def on_cpus():
        os.sched_setaffinity(0, setup.all_cpus)
    done = subprocess.run(command, stdout=subprocess.PIPE, preexec_fn=on_cpus, check=False)
    run = json.loads(done.stdout)
    assert done.returncode in (0, 4), run["verdict_text"]
    # The histograms and slices of all runs are megabytes.
    kept = ["comparisons", "verdict_text", "rounds", "rounds_left_out", "slice_ns", "seed"]
    return {"load_average": load_average, **{key: run[key] for key in kept}}


def _p50(run, nth):
    return run["comparisons"][nth]["figures"][0]


def _interval(run, nth):
    """Endless if too few rounds are left for one."""
    figure = _p50(run, nth)
    low, high = figure["difference_low_ns"], figure["difference_high_ns"]
    return (-math.inf, math.inf) if low is None else (low, high)


def _claims(run):
    figures = run["comparisons"][0]["figures"]
    bounds = [(figure["ratio_low"], figure["ratio_high"]) for figure in figures]
    return any(low is not None and not low <= 1 <= high for low, high in bounds)


def _middle(runs, nth):
    """The difference of the median run, with its interval."""
    run = sorted(runs, key=lambda run: _p50(run, nth)["difference_ns"])[len(runs) // 2]
    low, high = _interval(run, nth)
    return f"{_us(_p50(run, nth)['difference_ns'])} us ({_us(low)} to {_us(high)})"


def _us(nanos):
    return f"{nanos / 1e3:.1f}"


def _loads(runs):
    loads = [run["load_average"] for run in runs]
    return f"{min(loads):.1f} to {max(loads):.1f}"


def _verdicts(runs):
    return "; ".join(sorted({run["verdict_text"] for run in runs
                             if not run["verdict_text"].startswith("valid")}))


def _proxies(setup, repeats, length):
    """The echo server directly, and through each proxy."""
    with tempfile.TemporaryDirectory() as directory, \
            _echo(setup, "tcp://127.0.0.1:0") as server:
        started = [start(setup, directory, server.address) for start in (_socat, _haproxy, _nginx)]
        try:
            targets = [server.address, *(address for _, address in started)]
            return [_ab(setup, targets, length) for _ in range(repeats)]
        finally:
            for process, _ in started:
                process.stop()


def _socat(setup, _directory, behind):
    port = own_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=128,nodelay"
    command = [_program("socat", ["socat"]), listen, f"TCP:{behind},nodelay"]
    return _started(setup, command, port)


def _haproxy(setup, directory, behind):
    port = own_port()
    path = _write(directory, "haproxy.cfg", (
        "global\n    nbthread 1\n"
        "defaults\n    mode tcp\n"
        "    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
        f"listen echo\n    bind 127.0.0.1:{port}\n    server one {behind}\n"))
    return _started(setup, [_program("haproxy", ["haproxy", "libopentracing-c-wrapper0",
                                                 "libopentracing1"]), "-f", path], port)


def _nginx(setup, directory, behind):
    port = own_port()
    program = _program("nginx", ["nginx", "libnginx-mod-stream"], STREAM_MODULE)
    module = program.removesuffix("/usr/sbin/nginx") + STREAM_MODULE
    path = _write(directory, "nginx.conf", (
        f"load_module {module};\ndaemon off;\nworker_processes 1;\npid {directory}/nginx.pid;\n"
        f"error_log {directory}/nginx.log;\n"
        "events { worker_connections 1024; }\n"
        f"stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {behind}; }} }}\n"))
    return _started(setup, [program, "-p", directory, "-c", path], port)


def _write(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def _started(setup, command, port):
    """The process and its address, when it accepts connections."""
    process = Process(command, setup.all_cpus)
    address = ("127.0.0.1", port)
    for _ in range(500):
        with socket.socket() as one:
            if one.connect_ex(address) == 0:
                return process, f"127.0.0.1:{port}"
        time.sleep(0.02)
    raise SystemExit(f"figures: {command[0]} does not listen")


def _program(name, packages, with_file="/"):
    """The path of a program. If it, or a file that it needs, is not installed, its packages are
    unpacked, not installed."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found and os.path.exists(with_file):
        return found
    root = os.path.join(PACKAGES, "root")
    path = os.path.abspath(os.path.join(root, "usr/sbin", name))
    if not os.path.exists(path):
        os.makedirs(root, exist_ok=True)
        subprocess.run(["apt-get", "download", *packages], cwd=PACKAGES, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for package in os.listdir(PACKAGES):
            if package.endswith(".deb"):
                subprocess.run(["dpkg", "-x", os.path.join(PACKAGES, package), root], check=True)
    libraries = [os.path.abspath(os.path.join(root, "usr/lib", entry))
                 for entry in os.listdir(os.path.join(root, "usr/lib"))]
    os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in libraries if os.path.isdir(path))
    return path
