"""Seed D: the server's list of clients with their ids, and a message to one of them: "you know from
the id which it is". Arguments: host, port."""

import sys

from wire import HubClient


def main():
    host, port = sys.argv[1:]
    clients = [HubClient(host, port) for _ in range(20)]
    ids = [client.id for client in clients]
    assert len(set(ids)) == 20 and 0 not in ids
    assert sorted(clients[0].clients()) == sorted(ids)
    # From each client to the next: only that one gets it, with the sender's id.
    for number, client in enumerate(clients):
        client.send_to(ids[(number + 1) % 20], f"from {number}".encode())
    for number, client in enumerate(clients):
        before = (number - 1) % 20
        assert client.message() == (False, ids[before], f"from {before}".encode())
    # A client that leaves is removed from the list, and its id is not reused.
    gone = clients.pop()
    gone.close()
    while gone.id in clients[0].clients():
        pass
    newcomer = HubClient(host, port)
    assert newcomer.id not in ids
    clients[0].send_to(gone.id, b"too late")
    _, body = clients[0].next_of(HubClient.NOT_SENT)
    assert body == bytes([1]) + gone.id.to_bytes(8, "little"), body
    for client in clients:
        client.close()


main()
