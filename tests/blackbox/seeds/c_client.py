"""Seed C, "Using an Asynchronous Client Socket": connect, send, and receive until the server
closes, each with a callback and a completion event. Arguments: host, port."""

import asyncio
import sys


class State(asyncio.Protocol):
    """State shared by the callbacks: the events and the bytes received so far."""

    def __init__(self, message):
        self.message = message
        self.response = b""
        self.connect_done = asyncio.Event()
        self.send_done = asyncio.Event()
        self.receive_done = asyncio.Event()

    def connection_made(self, transport):
        self.connect_done.set()
        transport.write(self.message)
        self.send_done.set()

    def data_received(self, data):
        self.response += data

    def connection_lost(self, error):
        assert error is None, error
        self.receive_done.set()


async def exchange(host, port, message):
    loop = asyncio.get_running_loop()
    _, state = await loop.create_connection(lambda: State(message), host, int(port))
    for event in (state.connect_done, state.send_done, state.receive_done):
        await asyncio.wait_for(event.wait(), 30)
    return state.response


async def main():
    host, port = sys.argv[1:]
    message = b"This is a test<EOF>"
    assert await exchange(host, port, message) == message
    # Many clients at once, each with its own text.
    texts = [f"client {number} says {'z' * (number * 37)}<EOF>".encode() for number in range(300)]
    responses = await asyncio.gather(*(exchange(host, port, text) for text in texts))
    assert responses == texts


asyncio.run(main())
