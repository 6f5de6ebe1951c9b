# Server CPU of TLS: per echo, per byte of a stream, and per full handshake, against a bare epoll and
# rustls loop, and against HAProxy that ends TLS in front of the plain server.
#
# The load generator is the client, and verifies every byte. The CPU time per echo is the difference
# of two runs that differ in the number of echoes only, so handshakes are not part of it. Ratios are
# formed within a round, in which the servers have their turns one after the other in random order.

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time

from process import Process, Server, loadgen_summary, own_port
from report import Figure, Table
from statistic import format_interval, median_with_interval

# Title, flags, and echoes.
CASES = [
    ("64 B, 50 connections", ["-c", "50", "-l", "64"], 50_000),
    ("16 KiB, 10 connections", ["-c", "10", "-l", "16k"], 10_000),
]
STREAM = (["-c", "1", "-l", "64k", "-p", "4"], 5_000)
STREAM_BYTES = 64 << 10
HANDSHAKES = ["-c", "8", "--lifetime", "1"]
# The cipher suite of the sessions is TLS13_AES_256_GCM_SHA384.
CIPHER = "aes-256-gcm"
LISTEN_SECONDS_MAX = 10.0


class Behind:
    """HAProxy that ends TLS, and the plain server behind it."""

    def __init__(self, haproxy, server, address):
        self.haproxy = haproxy
        self.server = server
        self.address = address

    def cpu_ns(self):
        return Server.cpu_ns(self.haproxy) + self.server.cpu_ns()


def measure(setup):
    random.seed(1)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        cert, key = (os.path.join(directory, name) for name in ("cert.pem", "key.pem"))
        subprocess.run([setup.echopool("", 1)[0], "cert", "--cert", cert, "--key", key],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cpus = [setup.server_cpu]
        start = lambda command: stack.enter_context(Server(command, cpus))
        plain = start(setup.echopool("tcp://127.0.0.1:0", workers=1))
        servers = {
            "floor": start([setup.floor_binary, "tls", "--cert", cert, "--key", key]),
            "echopool": start(setup.echopool(f"tls://127.0.0.1:0?cert={cert}&key={key}", 1)),
        }
        if shutil.which("haproxy"):
            servers["haproxy + echopool"] = _haproxy(stack, directory, cert, key, plain, cpus)
        of = {name: f"tls://{server.address}?ca={cert}" for name, server in servers.items()}
        raw = {}
        table = Table(["case", "server", "CPU us", "ratio to floor (95 %)", "haproxy / it (95 %)"])
        for title, flags, echoes in CASES:
            count = echoes // 50 if setup.quick else echoes
            raw[title] = _rounds(setup, servers, lambda name: _per_echo(
                setup, servers[name], of[name], flags, count))
            _add_rows(table, f"{title}: per echo", raw[title], list(servers))
            print(f"  {title}: done", flush=True)
        seconds = "0.5s" if setup.quick else "3s"
        raw["handshakes"] = _rounds(setup, servers, lambda name: _per_handshake(
            setup, servers[name], of[name] + "&resume=off", seconds))
        _add_rows(table, "per full handshake, with an echo", raw["handshakes"], list(servers))
        print("  handshakes: done", flush=True)
        raw["stream"], shares = _stream(setup, servers["echopool"], of["echopool"], plain)
    notes = [
        f"Each is the median of {len(raw['handshakes'])} rounds, with the 95 % interval of that"
        " median. The targets are a ratio to the floor of at most 1.10 per echo, and at least 1.0"
        " for `haproxy / it`: what HAProxy and the plain server behind it use, divided by what the"
        " server uses that ends TLS itself.",
        "Stream of 64 KiB requests, 4 in flight: the CPU time of the plain echo, and of the AEAD"
        f" alone to decrypt and encrypt it (`openssl speed` {CIPHER}), are"
        f" {format_interval(median_with_interval(shares))} of what the TLS echo takes. The target"
        " is at least 0.75.",
    ]
    return Figure("tls", "CPU of TLS, against a bare loop and HAProxy", table, raw, notes)


def _haproxy(stack, directory, cert, key, plain, cpus):
    pair, config = (os.path.join(directory, name) for name in ("pair.pem", "haproxy.cfg"))
    with open(pair, "w", encoding="ascii") as both:
        for path in (cert, key):
            with open(path, encoding="ascii") as one:
                both.write(one.read())
    port = own_port()
    with open(config, "w", encoding="ascii") as text:
        text.write(f"""global
    nbthread 1
    maxconn 2000
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen tls
    bind 127.0.0.1:{port} ssl crt {pair} ssl-min-ver TLSv1.2
    server plain {plain.address}
""")
    haproxy = stack.enter_context(Process(["haproxy", "-q", "-db", "-f", config], cpus))
    end = time.monotonic() + LISTEN_SECONDS_MAX
    while f":{port:04X} 00000000:0000 0A" not in open("/proc/net/tcp", encoding="ascii").read():
        if time.monotonic() > end or haproxy.child.poll() is not None:
            raise SystemExit("figures: HAProxy does not listen")
        time.sleep(0.02)
    return Behind(haproxy, plain, f"127.0.0.1:{port}")


def _rounds(setup, servers, sample):
    """For each round the sample of each server by name."""
    rounds = []
    for _ in range(2 if setup.quick else max(6, setup.rounds // 3)):
        names = list(servers)
        random.shuffle(names)
        rounds.append({name: sample(name) for name in names})
    return rounds


def _run(setup, server, target, flags):
    """The CPU time of the server in a run, and the report."""
    before_ns = server.cpu_ns()
    report = loadgen_summary(target, [*flags, "-t", "1"], setup.client_cpus)
    # What it does after the last reply, such as closing.
    time.sleep(0.02)
    if report["mismatched_connections"] or report["errors"]:
        raise SystemExit(f"figures: {target}: {report['verdict_text']}")
    return server.cpu_ns() - before_ns, report


def _per_echo(setup, server, target, flags, count):
    """The CPU time of an echo in us."""
    few, first = _run(setup, server, target, [*flags, "-n", str(count // 10)])
    many, second = _run(setup, server, target, [*flags, "-n", str(count)])
    return (many - few) / (second["replies"] - first["replies"]) / 1e3


def _per_handshake(setup, server, target, seconds):
    """The CPU time of a full handshake, with an echo and the close, in us."""
    used, report = _run(setup, server, target, [*HANDSHAKES, "-d", seconds])
    return used / report["tls"]["handshakes_full"] / 1e3


def _stream(setup, server, target, plain):
    """For each round the CPU times per byte, and the share of the plain echo and the AEAD."""
    flags, echoes = STREAM
    count = echoes // 20 if setup.quick else echoes
    rounds, shares = [], []
    for _ in range(2 if setup.quick else max(6, setup.rounds // 3)):
        over_tls = _per_echo(setup, server, target, flags, count) * 1e3 / STREAM_BYTES
        without = _per_echo(setup, plain, f"tcp://{plain.address}", flags, count) * 1e3 / STREAM_BYTES
        aead = 1e9 / _aead_bytes_per_second(setup)
        rounds.append({"tls_ns": over_tls, "plain_ns": without, "aead_ns": aead})
        shares.append((without + 2 * aead) / over_tls)
    return rounds, shares


def _aead_bytes_per_second(setup):
    command = ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", CIPHER]
    with Process(command, [setup.server_cpu]) as speed:
        out, _ = speed.child.communicate()
    lines = [line.split(":") for line in out.splitlines() if line.startswith("+F:")]
    return float(lines[-1][-1])


def _add_rows(table, title, rounds, names):
    for name in names:
        def ratios(of, to):
            if of not in names or to not in names:
                return "-"
            return format_interval(median_with_interval([one[of] / one[to] for one in rounds]))

        middle = median_with_interval([one[name] for one in rounds])[0]
        to_floor = "1" if name == "floor" else ratios(name, "floor")
        behind = "1" if name == "haproxy + echopool" else ratios("haproxy + echopool", name)
        table.add(title, name, f"{middle:.2f}", to_floor, behind)
