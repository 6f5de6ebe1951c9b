"""Seed B with connections that stay open and lines as messages. Arguments: host, port."""

import sys

from wire import connect, receive_exactly, receive_to_end


def main():
    host, port = sys.argv[1:]
    client = connect(host, port)
    for number in range(100):
        line = f"line {number}\n".encode()
        client.sendall(line)
        assert receive_exactly(client, len(line)) == line
    lines = b"".join(f"{number}\n".encode() for number in range(1000))
    client.sendall(lines)
    assert receive_exactly(client, len(lines)) == lines, "many messages in one segment"
    client.shutdown(1)
    assert receive_to_end(client) == b""


main()
