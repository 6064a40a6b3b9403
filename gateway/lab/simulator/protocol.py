"""One client connection: bytes to requests, replies to bytes.

Decides nothing about content. Requests that arrive together are answered one after the other; a reply that is there
at once is written on the spot, any other by a `Player`.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.player import Player, reset_connection
from gateway.lab.simulator.records import Header
from gateway.lab.simulator.reply import End, Framing, Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.trouble import error_reply
from gateway.lab.simulator.upload import Upload

if TYPE_CHECKING:
    from gateway.lab.simulator.server import Simulator

__all__ = ["Protocol"]

MAX_WAITING = 64
FORM_OVERHEAD = 1 << 20
# Targets whose bodies may be larger than those of all others, or are read as they come.
LARGE = (b"/v1/files", b"/v1/skills", b"/v1/messages/batches")


class Protocol(asyncio.Protocol):
    """`requests` counts those received; `number` is this connection's place in the order of arrival."""

    def __init__(self, simulator: "Simulator") -> None:
        self.simulator = simulator
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.requests = 0
        self.number = 0
        self.writable = True
        self.player: Player | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._target = b""
        self._headers: list[Header] = []
        self._body: list[bytes] = []
        self._size = 0
        self._upload: Upload | None = None
        self._max_body = self._usual_body = simulator.settings.max_body
        self._may_expect = False
        self._closing = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.simulator.opened(self)
        if self.simulator.faults.early:
            self._strike_early(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._waiting.clear()
        self._upload = None
        self.simulator.closed(self)
        if self.player is not None:
            self.player.client_gone()
            self.player = None

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        # One search in the bytes instead of a look at each header.
        self._may_expect = b"100-continue" in data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(ApiError(400, "upgrade is not supported"))
        except httptools.HttpParserError as error:
            if not self._closing:
                self._refuse(ApiError(400, f"malformed request: {error}"))

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.player is not None:
            self.player.resume()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._body = []
        self._size = 0
        self._upload = None
        self._max_body = self._usual_body

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._target.startswith(LARGE):
            self._prepare()
        if self.simulator.faults.early:
            key = next((value for name, value in self._headers if name.lower() == b"x-api-key"), None)
            bearer = next((value for name, value in self._headers if name.lower() == b"authorization"), b"")
            text = (key or bearer.rpartition(b" ")[2]).decode("latin-1")
            account = self.simulator.service.credentials.by_key(text)
            if account is not None:
                self._strike_early(account.id)
        if self._may_expect and not self._closing and any(name.lower() == b"expect" for name, _ in self._headers):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._max_body:
            if not self._closing:
                self._refuse(ApiError(413))
        elif self._upload is None:
            self._body.append(body)
        else:
            self._upload.feed(body)

    def on_message_complete(self) -> None:
        if self._closing:
            return
        self.requests += 1
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.close()
        request = Request(
            self._parser.get_method().decode(),
            self._target.decode("latin-1"),
            self._headers,
            body,
            self._parser.should_keep_alive(),
            upload,
        )
        if self.player is not None or self._waiting:
            self._waiting.append(request)
            if len(self._waiting) >= MAX_WAITING:
                self.transport.pause_reading()
        else:
            self._start(request)

    def _prepare(self) -> None:
        """Makes room for a body that may be large: a form is read as it comes, a batch is held."""
        settings = self.simulator.settings
        if self._target.startswith(b"/v1/messages"):
            self._max_body = settings.max_batch_body
        elif self._parser.get_method() == b"POST":
            kind = next((value for name, value in self._headers if name.lower() == b"content-type"), b"")
            self._upload = Upload(kind.decode("latin-1"))
            self._max_body = settings.max_file + FORM_OVERHEAD

    # Answering.

    def _start(self, request: Request) -> None:
        simulator = self.simulator
        controls = request.path.startswith("/_sim/")
        reply = simulator.control(request) if controls else simulator.service.respond(request)
        steps = reply.steps
        if (
            reply.framing is Framing.LENGTH
            and reply.end is End.KEEP
            and reply.pieces is None
            and type(steps) is list
            and len(steps) == 1
            and steps[0][0] == 0
            and self.writable
        ):
            self._write_at_once(request, reply, steps[0][1], steps[0][2])
            return
        self.player = Player(self, reply, request)
        self.player.play()

    def _write_at_once(self, request: Request, reply: Reply, body: bytes, produced: int) -> None:
        service = self.simulator.service
        if reply.plan is not None:
            service.begin(reply)
        head = reply.head(request.keep_alive)
        self.transport.write(head if request.method == "HEAD" else head + body)
        service.finish(reply, produced, completed=reply.complete, aborted=False)
        if not request.keep_alive:
            self._closing = True
            self.transport.close()

    def answered(self, keep_alive: bool) -> None:
        """The player wrote its last byte; goes on to the next request or closes."""
        self.player = None
        if not keep_alive:
            self._closing = True
            self.transport.close()
            return
        while self._waiting and self._is_free():
            self._start(self._waiting.popleft())
        if self._is_free():
            self.transport.resume_reading()

    def _is_free(self) -> bool:
        return self.player is None and not self._closing

    def _strike_early(self, account: str | None) -> None:
        fault = self.simulator.faults.take_early(account)
        if fault is not None:
            self._closing = True
            if fault.kind == "refuse":
                self.transport.close()
            else:
                reset_connection(self.transport)

    def _refuse(self, error: ApiError) -> None:
        """Answers what never became a request, and closes."""
        self._closing = True
        if self.player is None:
            self.transport.write(self._refusal(error))
        self.transport.close()

    @staticmethod
    def _refusal(error: ApiError) -> bytes:
        reply = error_reply(error, "req_sim_unread")
        body = error.body("req_sim_unread")
        reply.headers += b"request-id: req_sim_unread\r\n"
        return reply.head(keep_alive=False) + body
