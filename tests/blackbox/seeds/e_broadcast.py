"""Seed E, "Asynchronous Socket Programming in C#": every message goes to all clients, of which
there are more than the original's ten. A client that leaves makes room for the next. Arguments: host,
port, and the connection limit, which is reached."""

import sys

from wire import HubClient


def main():
    host, port, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seen = set()
    for generation in range(5):
        clients = [HubClient(host, port) for _ in range(limit)]
        ids = {client.id for client in clients}
        assert len(ids) == limit and not ids & seen, "an id was assigned twice"
        seen |= ids
        assert set(clients[0].clients()) == ids, "the list is not exactly the connected clients"
        for number, client in enumerate(clients):
            client.broadcast(f"{generation}/{number}".encode())
            # One after the other, so that all clients see the same order.
            expected = (True, client.id, f"{generation}/{number}".encode())
            for reader in clients:
                assert reader.message() == expected
        for client in clients:
            client.close()


main()
