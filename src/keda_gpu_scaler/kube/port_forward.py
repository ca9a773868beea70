# SPDX-License-Identifier: Apache-2.0
"""Forwards a local port to a pod's port through the API server, as ``kubectl port-forward`` does.

Law: it listens on the loopback interface alone, and each local connection uses one WebSocket of its own. The reason why
a connection could not be opened is kept as a sentence.

The subprotocol is ``v4.channel.k8s.io``, which kubelets speak since 1.6. Each message begins with its channel, 0 for
data and 1 for errors, and the first bytes on each channel are the port's number in two bytes (k8s.io/kubelet,
pkg/cri/streaming/portforward/websocket.go).
"""

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping
from wsproto.frame_protocol import CloseReason

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import REQUEST_TIMEOUT_SECONDS, ApiClient, ApiError, escaped, refusal

SUBPROTOCOL = "v4.channel.k8s.io"
MAX_MESSAGE_BYTES = 16 << 20

_SWITCHING, _OK = 101, 200
_DATA, _ERROR = 0, 1
_CHUNK_BYTES = 64 << 10
_PORT_BYTES = 2
_ACCEPTING_TURNS = 3  # of the loop: for the transport of an accepted connection, and for its first callback
_NORMAL_CLOSURES = (CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, CloseReason.NO_STATUS_RCVD)


class MessageReader:
    """Reads a server's bytes as WebSocket messages: the bytes of a message come out when it is complete.

    ``replies`` holds the bytes that must be sent back: the answers to pings, and to a close.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._message = bytearray()
        self.replies = b""
        self.is_closed = False

    def read(self, chunk: bytes) -> list[bytes]:
        """Return the messages that are complete after these bytes.

        Raises:
            ApiError: the server violates the protocol, sends too long a message, or closes the connection because of
                an error.
        """
        self._connection.receive_data(chunk)
        messages = []
        for event in self._connection.events():
            if isinstance(event, Ping):
                self.replies += self._connection.send(event.response())
            elif isinstance(event, CloseConnection):
                self._close(event)
            elif isinstance(event, Message):
                self._message += event.data.encode() if isinstance(event.data, str) else event.data
                if len(self._message) > MAX_MESSAGE_BYTES:
                    raise ApiError(f"the API server sends a message of more than {MAX_MESSAGE_BYTES} bytes")
                if event.message_finished:
                    messages.append(bytes(self._message))
                    self._message.clear()
        return messages

    def _close(self, event: CloseConnection) -> None:
        if self.is_closed:
            return
        if self._connection.state is ConnectionState.OPEN:  # the server sent no close: wsproto rejects its bytes
            problem = escaped(event.reason or f"code {event.code}")
            raise ApiError(f"the API server violates the WebSocket protocol: {problem}: is a proxy in between?")
        self.is_closed = True
        if self._connection.state is ConnectionState.REMOTE_CLOSING:
            self.replies += self._connection.send(event.response())
        if event.code not in _NORMAL_CLOSURES:
            reason = f": {escaped(event.reason)}" if event.reason else ""
            raise ApiError(f"the API server closes the connection with code {int(event.code)}{reason}")


class PortForwarder(ApiClient):
    """An API server's client that reaches pods.

    ``failure`` says why the last connection could not be opened or was broken, and is empty where it was not.
    """

    failure = ""

    @asynccontextmanager
    async def forward(
        self, namespace: str, pod: str, port: int, on_failure: Callable[[str], None] = lambda reason: None
    ) -> AsyncIterator[int]:
        """Forward a local port to a pod's port while the block lasts; yield the local port.

        Args:
            namespace: the pod's namespace.
            pod: the pod's name.
            port: the pod's port.
            on_failure: called with the reason when a connection cannot be opened or is broken, before it is closed.

        Raises:
            ApiError: the API server refuses the first connection, which is opened at once.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
        # The first connection is opened before a client connects, so that a refusal is reported at once.
        first = [await self._open(path, port)]
        tasks: set[asyncio.Task[None]] = set()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                connection = first.pop() if first else await self._open(path, port)
                async with connection:
                    self.failure = await connection.carry(reader, writer)
                if self.failure:
                    on_failure(self.failure)
            except KubeError as error:
                on_failure(str(error))

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(carry(reader, writer), name=f"port-forward {namespace}/{pod}")
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            # A task that is cancelled before it began runs no ``finally``.
            task.add_done_callback(lambda _: writer.close())

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            await _end_accepting(server)
            pending = list(tasks)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for unused in first:
                await unused.close()

    async def _open(self, path: str, port: int) -> "_PodConnection":
        """Open a connection to a pod's port.

        Raises:
            ApiError: the connection cannot be opened.
        """
        stack = contextlib.AsyncExitStack()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                request = self._http.stream(
                    "GET", path, params={"ports": str(port)}, headers={**self._headers(""), **_upgrade_headers()}
                )
                response = await stack.enter_async_context(request)
                if response.status_code != _SWITCHING:
                    raise _not_switched(response.status_code, await response.aread())
        except TimeoutError as error:
            await stack.aclose()
            raise self._record(self._unreachable(f"not within {REQUEST_TIMEOUT_SECONDS:g} s")) from error
        except self._http_errors as error:
            await stack.aclose()
            raise self._record(self._unreachable(error)) from error
        except ApiError as error:
            await stack.aclose()
            raise self._record(error) from None
        return _PodConnection(response.extensions["network_stream"], stack)

    def _record(self, error: ApiError) -> ApiError:
        self.failure = str(error)
        return error


async def _end_accepting(server: asyncio.Server) -> None:
    """Close a server. Connections that were accepted before get their task.

    Python 3.11 never closes a connection whose transport is made after its server was closed.
    """
    for listener in server.sockets:
        with contextlib.suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().remove_reader(listener.fileno())
    for _ in range(_ACCEPTING_TURNS):
        await asyncio.sleep(0)
    server.close()


def _has_failed(task: "asyncio.Task[None]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


class _PodConnection:
    """One connection to a pod's port."""

    def __init__(self, stream: Any, stack: contextlib.AsyncExitStack) -> None:
        import httpcore

        # httpx maps httpcore's errors to its own, but not those of a stream after an upgrade.
        self._errors = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
        self._stream = stream
        self._stack = stack
        self._websocket = Connection(ConnectionType.CLIENT)
        self._write_lock = asyncio.Lock()  # the answer to a ping must not be sent within another message

    async def __aenter__(self) -> "_PodConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the WebSocket and its connection."""
        with contextlib.suppress(*self._errors):
            if self._websocket.state is ConnectionState.OPEN:
                await self._send(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
        await self._stack.aclose()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Copy bytes in both directions until one side ends; return the error of the pod's side, empty for none."""
        to_pod = asyncio.create_task(self._copy_to_pod(reader))
        from_pod = asyncio.create_task(self._copy_from_pod(writer))
        try:
            await asyncio.wait({to_pod, from_pod}, return_when=asyncio.FIRST_COMPLETED)
            if self._websocket.state is not ConnectionState.OPEN or _has_failed(to_pod):
                # What the server sent before its close must still be copied: it may be the reason.
                await asyncio.wait({from_pod}, timeout=REQUEST_TIMEOUT_SECONDS)
        finally:
            for task in (to_pod, from_pod):
                task.cancel()
            _, outcome = await asyncio.gather(to_pod, from_pod, return_exceptions=True)
        if isinstance(outcome, ApiError | OSError):
            return str(outcome)
        return outcome if isinstance(outcome, str) else ""

    async def _copy_to_pod(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._send(BytesMessage(data=bytes([_DATA]) + chunk))

    async def _copy_from_pod(self, writer: asyncio.StreamWriter) -> str:
        port_bytes = {_DATA: _PORT_BYTES, _ERROR: _PORT_BYTES}
        try:
            async for message in self._messages():
                channel, content = message[0], message[1:]
                skipped = min(port_bytes.get(channel, 0), len(content))
                if skipped:
                    port_bytes[channel] -= skipped
                    content = content[skipped:]
                if channel == _ERROR and content:
                    return f"the kubelet cannot reach the port: {escaped(content.decode('utf-8', 'replace').strip())}"
                if channel == _DATA and content:
                    writer.write(content)
                    await writer.drain()
        except self._errors as error:
            return f"the API server broke the connection: {str(error) or type(error).__name__}"
        return ""

    async def _messages(self) -> AsyncIterator[bytes]:
        """Yield every message that is not empty, until the server closes the WebSocket.

        Raises:
            ApiError: the connection ended without a close, or ``MessageReader`` rejects its bytes.
        """
        messages = MessageReader(self._websocket)
        while chunk := await self._stream.read(_CHUNK_BYTES):
            complete = messages.read(chunk)
            replies, messages.replies = messages.replies, b""
            if replies:
                await self._write(replies)
            for message in filter(None, complete):
                yield message
            if messages.is_closed:
                return
        raise ApiError("the API server broke the connection")

    async def _send(self, event: Event) -> None:
        await self._write(self._websocket.send(event))

    async def _write(self, content: bytes) -> None:
        async with self._write_lock:
            await self._stream.write(content, REQUEST_TIMEOUT_SECONDS)


def _upgrade_headers() -> dict[str, str]:
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
    }


def _not_switched(status: int, body: bytes) -> ApiError:
    """Return the error of a response that does not open a WebSocket."""
    error = refusal(status, body)
    if status != _OK:
        return error
    return ApiError(str(error).replace("200: ", "200: instead of opening a connection: ", 1), status)
