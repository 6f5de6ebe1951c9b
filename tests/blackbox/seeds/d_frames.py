"""Seed D, "Asynchronous Socket": a length of 4 bytes, then that many bytes. Arguments: host, port,
and "<" or ">" for the byte order of the length."""

import struct
import sys
import time

from wire import connect, frame, receive_exactly, receive_frame, receive_to_end


def main():
    host, port, order = sys.argv[1:]
    client = connect(host, port)
    for payload in (b"", b"x", b"Hello", bytes(range(256)), b"y" * 16_380, b"z" * 1_000_000):
        client.sendall(frame(payload, order))
        assert receive_frame(client, order) == payload, len(payload)
    # Many frames in one segment come back in order.
    payloads = [f"frame {number}".encode() for number in range(500)]
    client.sendall(b"".join(frame(payload, order) for payload in payloads))
    for payload in payloads:
        assert receive_frame(client, order) == payload
    # One byte at a time: nothing comes back before the frame is complete.
    whole = frame(b"slowly", order)
    for at in range(len(whole) - 1):
        client.sendall(whole[at : at + 1])
        time.sleep(0.005)
    client.settimeout(0.2)
    try:
        early = client.recv(1)
        raise AssertionError(f"{early} came before the end of the frame")
    except TimeoutError:
        client.settimeout(30)
    client.sendall(whole[-1:])
    assert receive_exactly(client, len(whole)) == whole
    client.close()
    # An invalid length ends the connection, after the replies to the frames before it.
    for bad in (-1, -(2**31), 2**31 - 1, 64 * 2**20):
        client = connect(host, port)
        good = frame(b"before", order)
        client.sendall(good + struct.pack(order + "i", bad) + b"some of it")
        assert receive_to_end(client) == good, bad
        client.close()


main()
