# A machine to install packages on: a real systemd as PID 1 over a small Debian, in namespaces of its
# own. Nothing of it is seen outside, and its network is a loopback interface of its own. It needs
# root, util-linux and Debian's package mmdebstrap.

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

# The first release of Debian whose systemd has Type=notify-reload.
SUITE = "trixie"
PACKAGES = "systemd,systemd-sysv,libnss-systemd,passwd"
SECONDS_MAX = 120

# Runs in the new namespaces, with the root directory as its argument.
BOOT = r"""
set -e
root=$1
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
# As in other containers: services that would change the kernel's settings see that they may not.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
ip link set lo up
mkdir run/old
pivot_root . run/old
umount -l /run/old
rmdir /run/old
# Not the machine's own: the kernel's modules and the clock.
exec env -i container=echopool PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_time \
    /lib/systemd/systemd --log-target=journal --show-status=no
"""


def base_image(directory):
    """The path of the archive with the root. Makes it if it is missing."""
    path = os.path.join(directory, f"{SUITE}.tar")
    if not os.path.exists(path):
        print(f"making what is missing: a root of Debian {SUITE}, {path}", flush=True)
        os.makedirs(directory, exist_ok=True)
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}",
                        SUITE, path + ".new.tar"], check=True)
        os.rename(path + ".new.tar", path)
    return path


class Machine(contextlib.ExitStack):
    """A machine that has booted. It is gone at the end of the `with` block."""

    def __init__(self, image):
        super().__init__()
        with contextlib.ExitStack() as failed:
            failed.enter_context(self)
            self.root = self.enter_context(tempfile.TemporaryDirectory(prefix="echopool-root-"))
            subprocess.run(["tar", "-xf", image, "-C", self.root], check=True)
            self.pid = self._boot(self._make_cgroup())
            failed.pop_all()

    def run(self, *command, check=True):
        """Runs a command inside to its end. Returns its exit code, or fails; and what it printed."""
        done = subprocess.run(self.inside(*command), text=True, timeout=SECONDS_MAX, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if check and done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}: {done.stdout}")
        return done.stdout.strip() if check else (done.returncode, done.stdout.strip())

    def inside(self, *command):
        """The command, run inside."""
        return ["nsenter", f"--target={self.pid}", "--all", "--wd", "env", "-i",
                "PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
                *command]

    def path(self, path):
        """A path inside, as it is outside."""
        return self.root + path

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(text)

    def _make_cgroup(self):
        with open("/proc/mounts", encoding="utf-8") as mounts:
            tree = next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
        cgroup = os.path.join(tree, f"echopool-{os.getpid()}")
        os.mkdir(cgroup)
        self.callback(remove_cgroup, cgroup)
        return cgroup

    def _boot(self, cgroup):
        # The shell joins the cgroup first, which is then the root of the machine's.
        command = ["sh", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "sh", cgroup,
                   "unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork",
                   "--kill-child", "sh", "-c", BOOT, "sh", self.root]
        outer = subprocess.Popen(command)
        self.callback(end, outer)
        children = f"/proc/{outer.pid}/task/{outer.pid}/children"

        def pid_1():
            with open(children, encoding="ascii") as file:
                pids = file.read().split()
            with contextlib.suppress(IndexError, OSError):
                with open(f"/proc/{pids[0]}/comm", encoding="ascii") as file:
                    return int(pids[0]) if file.read() == "systemd\n" else None

        self.pid = wait_for(pid_1, "systemd")
        wait_for(lambda: os.path.exists(f"/proc/{self.pid}/root/run/systemd/private"),
                 "systemctl")
        code, state = self.run("systemctl", "is-system-running", "--wait", check=False)
        if code:
            failed = self.run("systemctl", "--failed", "--no-legend")
            raise SystemExit(f"the machine is {state}: {failed}")
        return self.pid


def end(process):
    """Ends `unshare`, which kills PID 1, with which everything inside ends."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def remove_cgroup(path):
    def remove():
        with contextlib.suppress(OSError):
            for directory, _, _ in os.walk(path, topdown=False):
                os.rmdir(directory)
        return not os.path.exists(path)

    wait_for(remove, "the end of the cgroup")


def wait_for(what, name):
    limit = time.monotonic() + SECONDS_MAX
    while not (result := what()):
        if time.monotonic() > limit:
            raise SystemExit(f"{name} did not come within {SECONDS_MAX} s")
        time.sleep(0.05)
    return result


def require(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise SystemExit(f"no {tool}")
