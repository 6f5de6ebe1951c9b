"""Seed B, "Using an Asynchronous Server Socket": text up to <EOF>, in whatever pieces it comes, is
shown by the server, sent back, and the connection closed. Arguments: host, port."""

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
    # Longer than the state object's buffer of 1,024 bytes, and than echopool's of 16 KiB.
    for length in (1023, 1024, 1025, 50_000):
        long = b"x" * length + EOF_MARK
        assert exchange(host, port, [long]) == long, length
    # Cut in two anywhere, in the mark too.
    for cut in range(1, len(message)):
        assert exchange(host, port, [message[:cut], message[cut:]]) == message, cut
    # One byte at a time.
    pieces = [message[at : at + 1] for at in range(len(message))]
    assert exchange(host, port, pieces) == message
    # What looks like the mark and is not.
    tricky = b"<EOF<EO<<EOF" + EOF_MARK
    assert exchange(host, port, [tricky]) == tricky


main()
