"""Shared by the clients of these tests: sockets that do not hang, framing, and the hub protocol.
Written from the text of the original programs and the documentation, with no code of echopool."""

import socket
import struct

TIMEOUT = 30  # seconds, so that a hang fails the test


def connect(host, port):
    """Connects. `host` is an IPv4 or IPv6 address or a name."""
    client = socket.create_connection((host, int(port)), timeout=TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def receive_exactly(client, count):
    """Receives `count` bytes, in however many pieces they arrive."""
    received = b""
    while len(received) < count:
        piece = client.recv(min(65536, count - len(received)))
        assert piece, f"closed after {len(received)} of {count} bytes"
        received += piece
    return received


def receive_to_end(client):
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def frame(payload, order="<"):
    """A length of 4 bytes, then that many bytes. The length counts bytes, not characters."""
    return struct.pack(order + "i", len(payload)) + payload


def receive_frame(client, order="<"):
    (length,) = struct.unpack(order + "i", receive_exactly(client, 4))
    assert length >= 0, length
    return receive_exactly(client, length)


class HubClient:
    """A client of the hub: docs/hub-protocol.md."""

    LIST, SEND, BROADCAST = 1, 2, 3
    WELCOME, CLIENTS, MESSAGE, JOINED, LEFT, NOT_SENT, DROPPED = range(128, 135)

    def __init__(self, host, port):
        self.socket = connect(host, port)
        kind, body = self.receive()
        assert kind == self.WELCOME, kind
        (self.id,) = struct.unpack("<Q", body)

    def send_command(self, kind, body=b""):
        self.socket.sendall(frame(bytes([kind]) + body))

    def broadcast(self, payload):
        self.send_command(self.BROADCAST, payload)

    def send_to(self, client, payload):
        self.send_command(self.SEND, struct.pack("<Q", client) + payload)

    def receive(self):
        """The type and the rest of the next frame."""
        body = receive_frame(self.socket)
        return body[0], body[1:]

    def next_of(self, *kinds):
        """The next frame of one of these types. Skips others."""
        while True:
            kind, body = self.receive()
            if kind in kinds:
                return kind, body

    def message(self):
        """The next message: whether it was for all, the sender's id, and the payload."""
        _, body = self.next_of(self.MESSAGE)
        to_all, sender = struct.unpack("<BQ", body[:9])
        return bool(to_all), sender, body[9:]

    def clients(self):
        """The ids of all clients, as the server lists them."""
        self.send_command(self.LIST)
        ids, more = [], True
        while more:
            _, body = self.next_of(self.CLIENTS)
            more = bool(body[0])
            ids += [id for (id,) in struct.iter_unpack("<Q", body[1:])]
        return ids

    def close(self):
        self.socket.close()
