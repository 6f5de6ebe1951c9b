"""Runs a program on a terminal of its own, types keys when it shows something, and prints as JSON
what it left: terminal.py COLUMNS WAIT_FOR KEYS PROGRAM ARGUMENT...
KEYS of the form kill:NUMBER are that signal."""
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time

GUARD_S = 60


def modes(descriptor):
    """Whether the terminal collects lines, and whether it echoes."""
    flags = termios.tcgetattr(descriptor)[3]
    return [bool(flags & termios.ICANON), bool(flags & termios.ECHO)]


def run_on(ours, theirs, command):
    """In the child: the terminal becomes its own, with all three standard streams."""
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    for standard in range(3):
        os.dup2(theirs, standard)
    os.close(ours)
    os.environ["TERM"] = "xterm"
    # Signals that the parent of the tests ignores would be ignored here too.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)


def main(columns, wait_for, keys, command):
    # The other end stays open here, so that the modes can be read after the program has ended.
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    before, during, shown, status = modes(ours), None, b"", None
    child = os.fork()
    if child == 0:
        run_on(ours, theirs, command)
    deadline = time.monotonic() + GUARD_S
    while True:
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 65536)
        elif status is not None:
            break
        if during is None and wait_for in shown:
            during = modes(ours)
            if keys.startswith(b"kill:"):
                os.kill(child, int(keys[5:]))
            else:
                os.write(ours, keys)
        if status is None:
            ended, code = os.waitpid(child, os.WNOHANG)
            status = code if ended else None
        if time.monotonic() > deadline:
            os.kill(child, 9)
            sys.exit(f"no end within {GUARD_S} s; shown at last: {shown[-400:]!r}")
    print(json.dumps({
        "shown": shown.decode(),
        "code": os.waitstatus_to_exitcode(status),
        "modes_before": before,
        "modes_during": during,
        "modes_after": modes(ours),
    }))


main(int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3].encode(), sys.argv[4:])
