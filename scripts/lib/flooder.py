# Floods one listener of a server from many connections, as far as one thread can.
#
#   flooder.py KIND HOST:PORT CONNECTIONS
#
# Prints `ready` when all are connected. A line `on` or `off` on stdin begins or ends the flood; the
# reply is a line with the bytes that were sent and received since the last one.

import os
import select
import socket
import struct
import sys

CHUNK = 1 << 16
# A hub's requests, little endian: a list (type 1), and a broadcast (type 3) of 100 bytes.
LIST = struct.pack("<i", 1) + b"\x01"
BROADCAST = struct.pack("<i", 101) + b"\x03" + b"b" * 100

# Kind -> (what is sent again and again, bytes of a send at most, how many of the connections send).
KINDS = {
    "message": (b"x<EOF>" * 10_000, 60_000, None),
    "frames": (struct.pack("<i", 1) + b"f", 1, None),
    "discard": (b"d" * CHUNK, CHUNK, None),
    "chargen": (b"", 0, 0),
    # They only receive: the server's own threads send.
    "broadcasts": (b"", 0, 0),
    "hub-lists": (LIST * 50, 250, None),
    "hub-broadcasts": (BROADCAST * 100, CHUNK, 8),
}


class Flood:
    def __init__(self, kind, address, count):
        host, port = address.rsplit(":", 1)
        self.data, self.most, senders = KINDS[kind]
        self.poll = select.epoll()
        self.clients, self.place = {}, {}
        self.senders = set()
        # A client of chargen that does not read is not sent to.
        self.reads_when_off = kind != "chargen"
        for number in range(count):
            client = socket.create_connection((host, int(port)), 20)
            client.setblocking(False)
            self.clients[client.fileno()] = client
            self.place[client.fileno()] = 0
            if senders is None or number < senders:
                self.senders.add(client.fileno())
            self.poll.register(client, 0)
        self.poll.register(sys.stdin, select.EPOLLIN)
        self.buffer = bytearray(1 << 18)
        self.turn(False)

    def turn(self, on):
        self.on, self.sent, self.received = on, 0, 0
        for number, client in self.clients.items():
            events = select.EPOLLIN if on or self.reads_when_off else 0
            if on and number in self.senders:
                events |= select.EPOLLOUT
            self.poll.modify(client, events)

    def run(self):
        print("ready", flush=True)
        while True:
            for number, event in self.poll.poll():
                if number == sys.stdin.fileno():
                    line = os.read(number, 100).decode().split()
                    if not line:
                        return
                    print(self.sent, self.received, flush=True)
                    self.turn(line[-1] == "on")
                    break
                try:
                    if event & select.EPOLLIN:
                        count = self.clients[number].recv_into(self.buffer)
                        if count == 0:
                            self.lose(number)
                            continue
                        self.received += count
                    if event & select.EPOLLOUT:
                        self.send(number)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    # The server may shed a client that keeps buffers from others.
                    self.lose(number)

    def lose(self, number):
        self.poll.unregister(number)
        self.clients.pop(number).close()
        self.senders.discard(number)

    def send(self, number):
        """Sends on where the last send ended, so that what is sent stays whole."""
        at = self.place[number]
        count = self.clients[number].send(self.data[at:at + self.most])
        self.place[number] = (at + count) % len(self.data)
        self.sent += count


if __name__ == "__main__":
    Flood(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
