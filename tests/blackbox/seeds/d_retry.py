"""Seed D's client: it retries to connect until the server is there, and reconnects when the server
is gone. Prints "up" after each successful exchange, and exits after `count` of them. Arguments:
host, port, count."""

import sys
import time

from wire import connect, frame, receive_frame

PAUSE = 0.05  # the original waits a second


def exchange(host, port):
    client = connect(host, port)
    client.sendall(frame(b"are you there?"))
    assert receive_frame(client) == b"are you there?"
    return client


def main():
    host, port, count = sys.argv[1:]
    for _ in range(int(count)):
        while True:
            try:
                client = exchange(host, port)
                break
            except (OSError, AssertionError):
                time.sleep(PAUSE)
        print("up", flush=True)
        # Wait until the server is gone.
        try:
            while client.recv(1):
                pass
        except OSError:
            pass
        client.close()


main()
