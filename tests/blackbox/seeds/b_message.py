"""Seed B, "Using an Asynchronous Server Socket": the server shows text up to <EOF>, in whatever
pieces it arrives, sends it back, and closes the connection. Arguments: host, port."""

import sys
import time

from wire import connect, receive_to_end

EOF_MARK = b"<EOF>"


def exchange(host, port, pieces):
    client = connect(host, port)
    for piece in pieces:
        client.sendall(piece)
        if len(pieces) > 1:
            time.sleep(0.005)  # so that the pieces are read one by one
    reply = receive_to_end(client)
    client.close()
    return reply


def main():
    host, port = sys.argv[1:]
    message = b"This is a test" + EOF_MARK
    assert exchange(host, port, [message]) == message
    # Around the 1,024 bytes of the original's buffer, and longer than echopool's 16 KiB.
    for length in (1023, 1024, 1025, 50_000):
        long = b"x" * length + EOF_MARK
        assert exchange(host, port, [long]) == long, length
    # Split in two at every place, even inside the mark.
    for cut in range(1, len(message)):
        assert exchange(host, port, [message[:cut], message[cut:]]) == message, cut
    # One byte at a time.
    pieces = [message[at : at + 1] for at in range(len(message))]
    assert exchange(host, port, pieces) == message
    # Text that resembles the mark.
    tricky = b"<EOF<EO<<EOF" + EOF_MARK
    assert exchange(host, port, [tricky]) == tricky


main()
