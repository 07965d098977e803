"""What stands before a server to encrypt: TLS on one side, plain on the other."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme


@contextmanager
def tls_before(port: int, authority_file: Path) -> Iterator[int]:
    """A port whose connections are passed on to `port` of this machine. authority_file: written, and whoever trusts it
    trusts the certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(authority_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    begun: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(passed_on(reader, there_writer), passed_on(there_reader, writer))

    async def until_done() -> None:
        server, done = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context), asyncio.Event()
        begun.set_result((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), done))
        await done.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(until_done(),))
    thread.start()
    here, loop, done = begun.result()
    try:
        yield here
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()
