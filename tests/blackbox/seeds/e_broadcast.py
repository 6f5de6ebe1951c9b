"""Seed E, "Asynchronous Socket Programming in C#": every message goes to all clients; more than the
original's ten; who leaves makes room for the next. Arguments: host, port, the limit of connections,
which is used up."""

import sys

from wire import HubClient


def main():
    host, port, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seen = set()
    for generation in range(5):
        clients = [HubClient(host, port) for _ in range(limit)]
        ids = {client.id for client in clients}
        assert len(ids) == limit and not ids & seen, "an id was given twice"
        seen |= ids
        assert set(clients[0].clients()) == ids, "who has left is not listed, who is there is"
        for number, client in enumerate(clients):
            client.broadcast(f"{generation}/{number}".encode())
            # One after the other, so that all see the same order.
            expected = (True, client.id, f"{generation}/{number}".encode())
            for reader in clients:
                assert reader.message() == expected
        for client in clients:
            client.close()


main()
