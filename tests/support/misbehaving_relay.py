"""An SMTP server over TLS (aiosmtpd) that misbehaves once for each recipient, as the recipient's name says, and takes every
mail after that. Says its port, then each mail that it took: recipient, Message-ID, and the connection that it came over."""

import asyncio
import email
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP


class Handler:
    def __init__(self):
        self.seen = set()

    def play(self, address, stage):
        """What to do at this stage, the first time."""
        play = PLAYS.get(address.split("@")[0].rstrip("0123456789"))
        if play is None or play[0] != stage or (address, stage) in self.seen:
            return None
        self.seen.add((address, stage))
        return play[1]

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = await act(server, self.play(address, "RCPT"))
        if answer is None:
            envelope.rcpt_tos.append(address)
            return "250 2.1.5 Ok"
        return answer

    async def handle_DATA(self, server, session, envelope):
        play = self.play(envelope.rcpt_tos[0], "DATA")
        if play is None or not play[0].isdigit():
            message = email.message_from_bytes(envelope.content)
            line = [envelope.rcpt_tos[0], message["Message-ID"], session.peer[1]]
            print(json.dumps(line), flush=True)
        return await act(server, play) or "250 2.0.0 Ok: queued as 4QX7"


PLAYS = {
    "busy": ("RCPT", "451 4.7.1 greylisted"),
    "policy": ("RCPT", "550 5.7.1 relay access denied"),
    "nobody": ("RCPT", "550 5.1.1 no such mailbox"),
    "reset": ("RCPT", "drop"),
    "hang": ("RCPT", "hang"),
    "trickle": ("RCPT", "trickle"),
    "full": ("DATA", "452 4.3.1 disk full"),
    "spam": ("DATA", "554 5.7.1 this looks like spam"),
    "cut": ("DATA", "drop"),
}


async def act(server, play):
    if play == "drop":
        server.transport.abort()
    if play in ("drop", "hang"):
        await asyncio.Event().wait()
    while play == "trickle":
        server.transport.write(b"2")
        await asyncio.sleep(0.2)
    return play


async def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    handler = Handler()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler), "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(serve())
