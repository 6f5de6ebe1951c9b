"""Seed A, "How To Use the SocketAsyncEventArgs Class": clients connect, send a message, receive it,
and disconnect. Arguments: the port, then the hosts to connect to."""

import sys

from wire import connect, receive_exactly


class SocketClient:
    """Connect, SendReceive, Disconnect."""

    def __init__(self, host, port):
        self.socket = connect(host, port)

    def send_receive(self, message):
        sent = message.encode()
        self.socket.sendall(sent)
        return receive_exactly(self.socket, len(sent)).decode()

    def disconnect(self):
        self.socket.close()


def main():
    port, hosts = sys.argv[1], sys.argv[2:]
    for host in hosts:
        client = SocketClient(host, port)
        for iteration in range(10):
            message = f"Message #{iteration} – ünïcode counts in bytes"
            assert client.send_receive(message) == message
        client.disconnect()
    # Each client gets its own reply, however many there are and in whatever order they send.
    clients = [SocketClient(hosts[n % len(hosts)], port) for n in range(200)]
    for turn in range(5):
        for number, client in reversed(list(enumerate(clients))):
            message = f"client {number}, turn {turn}"
            assert client.send_receive(message) == message
    for client in clients:
        client.disconnect()


main()
