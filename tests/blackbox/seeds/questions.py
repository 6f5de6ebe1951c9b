"""Questions of the readers of seed A, one function each. Arguments: host, port, the name of the
question."""

import os
import select
import socket
import sys
import threading
import time

from wire import connect, receive_exactly, receive_to_end


def packets_that_arrive_split(host, port):
    client = connect(host, port)
    message = bytes(range(256)) * 4
    for at in range(0, len(message), 7):
        client.sendall(message[at : at + 7])
    assert receive_exactly(client, len(message)) == message


def data_larger_than_the_buffer(host, port):
    """"can't read all the bytes": 5 MB through buffers of 16 KiB."""
    client = connect(host, port)
    data = os.urandom(5_000_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive_exactly(client, len(data)) == data
    sender.join()


def time_outs(host, port):
    """The server runs with --idle-timeout 3s. A client that sends stays connected."""
    idle, busy = connect(host, port), connect(host, port)
    ended = None
    deadline = time.monotonic() + 30
    while ended is None and time.monotonic() < deadline:
        busy.sendall(b"still here")
        assert receive_exactly(busy, 10) == b"still here"
        if select.select([idle], [], [], 0.02)[0]:
            ended = idle.recv(1)
    assert ended == b"", f"an orderly end, not {ended}"
    busy.sendall(b"and here")
    assert receive_exactly(busy, 8) == b"and here"


def more_than_1300_connections(host, port):
    clients = [connect(host, port) for _ in range(3000)]
    for number, client in enumerate(clients):
        client.sendall(b"%04d" % number)
    for number, client in enumerate(clients):
        assert receive_exactly(client, 4) == b"%04d" % number


def sending_without_receiving(host, port):
    """The server stops reading from a client that sends and does not read, and stores no more for
    it than fits its buffers. When the client reads at last, everything arrives."""
    client = connect(host, port)
    client.setblocking(False)
    sent = quiet = 0
    chunk = b"0123456789abcdef" * 4096
    while quiet < 10:
        try:
            sent += client.send(chunk[sent % 16 :])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.05)
    client.setblocking(True)
    client.settimeout(30)
    client.shutdown(socket.SHUT_WR)
    received = receive_to_end(client)
    assert len(received) == sent, (len(received), sent)
    assert received == (b"0123456789abcdef" * (sent // 16 + 1))[:sent]


def answering_each_client(host, port):
    """In the reverse order of connecting, with a silent client among them."""
    silent = connect(host, port)
    clients = [connect(host, port) for _ in range(50)]
    for number, client in reversed(list(enumerate(clients))):
        client.sendall(f"number {number}".encode())
        assert client.recv(100) == f"number {number}".encode()
    silent.close()


def echo_many_clients_at_once(host, port):
    def chat(number):
        client = connect(host, port)
        for turn in range(50):
            text = f"{number}:{turn};".encode() * 20
            client.sendall(text)
            assert receive_exactly(client, len(text)) == text
        done.append(number)

    done = []
    threads = [threading.Thread(target=chat, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 100, f"{len(done)} of 100"


host, port, question = sys.argv[1:]
globals()[question](host, port)
