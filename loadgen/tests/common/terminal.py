"""Runs a program on a terminal of its own, does something each time it shows a text, and prints as
JSON what it left: terminal.py COLUMNSxROWS WAIT_FOR STEPS PROGRAM ARGUMENT...
STEPS are separated by "|", and are done one by one when what was shown since the last one contains
WAIT_FOR: keys to type; kill:NUMBER,NUMBER..., these signals at once; stop, which stops the job and
continues it; size:COLUMNSxROWS, another size."""
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
# Written behind what the program has written, so that all of it has been read when this comes.
MARK = b"\x1e(that was all)\x1e"


def modes(descriptor):
    """Whether the terminal collects lines, and whether it echoes."""
    flags = termios.tcgetattr(descriptor)[3]
    return [bool(flags & termios.ICANON), bool(flags & termios.ECHO)]


def set_size(descriptor, text):
    columns, rows = map(int, text.split("x"))
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


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


class Terminal:
    def __init__(self, size, command):
        # The other end stays open here, so that the modes can be read after the program has ended.
        self.ours, self.theirs = os.openpty()
        set_size(self.ours, size)
        self.settings = repr(termios.tcgetattr(self.ours))
        self.before = modes(self.ours)
        self.shown = b""
        self.deadline = time.monotonic() + GUARD_S
        self.child = os.fork()
        if self.child == 0:
            run_on(self.ours, self.theirs, command)

    def read(self):
        """What is shown now; False if there is nothing."""
        if not select.select([self.ours], [], [], 0.05)[0]:
            self.guard()
            return False
        self.shown += os.read(self.ours, 65536)
        return True

    def guard(self):
        if time.monotonic() > self.deadline:
            os.kill(self.child, 9)
            sys.exit(f"no end within {GUARD_S} s; shown at last: {self.shown[-400:]!r}")

    def wait_for(self, status):
        """Reads until the child has this status: ended, or stopped."""
        while True:
            found, code = os.waitpid(self.child, os.WNOHANG | os.WUNTRACED)
            if found and status(code):
                os.write(self.theirs, MARK)
                while not self.shown.endswith(MARK):
                    self.read()
                self.shown = self.shown.removesuffix(MARK)
                return code
            self.read()

    def do(self, step):
        """A step, and the modes before it and, if the job is stopped, while it is."""
        done = {"begin": len(self.shown), "modes": modes(self.ours)}
        if step.startswith("kill:"):
            for number in step[5:].split(","):
                os.kill(self.child, int(number))
        elif step.startswith("size:"):
            set_size(self.ours, step[5:])
        elif step == "stop":
            os.kill(self.child, signal.SIGTSTP)
            self.wait_for(os.WIFSTOPPED)
            done |= {"modes_stopped": modes(self.ours), "stopped": len(self.shown)}
            os.kill(self.child, signal.SIGCONT)
        else:
            os.write(self.ours, step.encode())
        return done


def main(size, wait_for, steps, command):
    terminal = Terminal(size, command)
    done, since = [], 0
    # A program may also end without a step.
    for step in steps.split("|") if steps else []:
        while wait_for.encode() not in terminal.shown[since:]:
            terminal.read()
        done.append(terminal.do(step))
        since = done[-1].get("stopped", done[-1]["begin"])
    code = terminal.wait_for(lambda code: os.WIFEXITED(code) or os.WIFSIGNALED(code))
    print(json.dumps({
        "shown": terminal.shown.decode(),
        # A character for each byte, so that it can be cut anywhere.
        "bytes": terminal.shown.decode("latin-1"),
        "steps": done,
        "code": os.waitstatus_to_exitcode(code),
        "modes_before": terminal.before,
        "modes_after": modes(terminal.ours),
        "same_settings": terminal.settings == repr(termios.tcgetattr(terminal.ours)),
    }))


main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
