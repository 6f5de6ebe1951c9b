# The machine that runs the measurements: CPUs, limits, description.

import datetime
import os
import platform
import resource


def cpus_for_server_and_clients(server_cpu=None):
    """One CPU for the server under test, the others for its clients and for the scripts."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("figures: at least two CPUs are needed, one of them for the server alone")
    # CPU 0 often handles device interrupts, so the server gets the last CPU.
    server = allowed[-1] if server_cpu is None else server_cpu
    if server not in allowed:
        raise SystemExit(f"figures: CPU {server} is not among those allowed: {allowed}")
    return server, [cpu for cpu in allowed if cpu != server]


def raise_open_files(needed):
    """Raises the soft limit to the hard one, for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"figures: {needed} open files are needed, the hard limit is {hard}:"
            f" raise it (ulimit -Hn {needed}) or use --quick"
        )


def description():
    """What a reader has to know about the machine, without its name."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "load_average_at_start": os.getloadavg()[0],
    }


def _cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            for line in cpuinfo:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
