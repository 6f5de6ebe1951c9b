"""Seed D's client: it tries to connect again and again until the server is there, and comes back
when the server is gone. Says "up" on stdout each time an exchange has worked, and ends after as
many as it is told. Arguments: host, port, count."""

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
        # Until the server goes.
        try:
            while client.recv(1):
                pass
        except OSError:
            pass
        client.close()


main()
