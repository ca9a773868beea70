# SPDX-License-Identifier: Apache-2.0
"""How is a pod's port reached from outside of its cluster? Through the API server, as ``kubectl port-forward`` does it.

The law of this module: it listens on the loopback interface alone, and each connection there is one WebSocket of its
own. Why one could not be had is kept as a sentence.

The subprotocol is ``v4.channel.k8s.io``, which kubelets speak since 1.6: each message begins with its channel, 0 for
data and 1 for errors, and what comes first on each channel is the port's number in two bytes (k8s.io/kubelet,
pkg/cri/streaming/portforward/websocket.go). Frames are those of RFC 6455.
"""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import REQUEST_SECONDS, ApiClient, ApiError

SUBPROTOCOL = "v4.channel.k8s.io"
MAX_MESSAGE_BYTES = 16 << 20

_SWITCHING, _OK = 101, 200
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_DATA, _ERROR = 0, 1
_CHUNK_BYTES = 64 << 10
_PORT_BYTES = 2
_LONGEST_SENTENCE = 300


class Frames:
    """What comes on a WebSocket: bytes in, whole messages out, each with its opcode.

    Raises:
        ApiError: from ``read``, for what no server may send.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._opcode, self._message = _BINARY, b""

    def read(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Take in what came, and return what is whole by now; control frames may stand between a message's parts."""
        self._rest += chunk
        found = []
        while (frame := self._frame()) is not None:
            is_last, opcode, payload = frame
            if opcode >= _CLOSE:
                found.append((opcode, payload))
                continue
            if opcode != _CONTINUATION:
                self._opcode, self._message = opcode, b""
            self._message += payload
            _bounded(len(self._message))
            if is_last:
                found.append((self._opcode, self._message))
        return found

    def _frame(self) -> tuple[bool, int, bytes] | None:
        rest = self._rest
        if len(rest) < 2:
            return None
        if rest[1] & 0x80:
            raise ApiError("the API server sends a masked frame, which is no WebSocket's: is a proxy in between?")
        length, at = rest[1] & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            length = int.from_bytes(rest[2:at], "big") if len(rest) >= at else 0
        _bounded(length)
        if len(rest) < at + length:
            return None
        self._rest = rest[at + length :]
        return bool(rest[0] & 0x80), rest[0] & 0x0F, rest[at : at + length]


def frame(payload: bytes, opcode: int = _BINARY) -> bytes:
    """Return one whole message as a client must send it: masked."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = bytes([0x80 | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([0x80 | 127]) + length.to_bytes(8, "big")
    mask = os.urandom(4)
    key = int.from_bytes(mask * (length // 4 + 1), "big") >> 8 * (4 - length % 4)
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")
    return bytes([0x80 | opcode]) + size + mask + masked


class PortForwarder(ApiClient):
    """An API server through which pods are reached.

    ``failure`` is the sentence that says why the last connection could not be had, empty while there is none.
    """

    failure = ""

    @asynccontextmanager
    async def forward(self, namespace: str, pod: str, port: int) -> AsyncIterator[int]:
        """Listen on a port of the loopback interface, which is the pod's for as long as the block lasts; yield it.

        Raises:
            ApiError: the API server refuses, which is known at once.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
        first: list[_PortForward] = []
        carriers: set[asyncio.Task[None]] = set()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - the server runs each connection as a task
            carriers.add(task)
            # Cancelled is what it is when the block ends; the event loop would take that for a fault of ours.
            with contextlib.suppress(KubeError, asyncio.CancelledError):
                tunnel = first.pop() if first else await self._open(path, port)
                async with tunnel:
                    self.failure = await tunnel.carry(reader, writer)
            carriers.discard(task)
            writer.close()

        # The first is opened before anybody connects: whoever may not, or misspelt a name, is told so at once.
        first.append(await self._open(path, port))
        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in list(carriers):
                task.cancel()
            await asyncio.gather(*carriers, return_exceptions=True)
            for tunnel in first:
                await tunnel.close()

    async def _open(self, path: str, port: int) -> "_PortForward":
        """Ask for a connection.

        Raises:
            ApiError: there is none.
        """
        stack = contextlib.AsyncExitStack()
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": SUBPROTOCOL,
        }
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                asked = self._http.stream(
                    "GET", path, params={"ports": str(port)}, headers={**self._headers(""), **headers}
                )
                answer = await stack.enter_async_context(asked)
                if answer.status_code != _SWITCHING:
                    raise _refusal(answer.status_code, await answer.aread())
        except TimeoutError as error:
            await stack.aclose()
            raise self._failed(self._unreachable(f"not within {REQUEST_SECONDS:g} s")) from error
        except self._errors as error:
            await stack.aclose()
            raise self._failed(self._unreachable(error)) from error
        except ApiError as error:
            await stack.aclose()
            raise self._failed(error) from None
        return _PortForward(answer.extensions["network_stream"], stack)

    def _failed(self, error: ApiError) -> ApiError:
        self.failure = str(error)
        return error


class _PortForward:
    """One connection to a pod's port."""

    def __init__(self, stream: Any, stack: contextlib.AsyncExitStack) -> None:
        import httpcore

        self._errors = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
        self._stream = stream
        self._stack = stack
        self._turn = asyncio.Lock()  # whoever pings is answered between our messages, and not within one

    async def __aenter__(self) -> "_PortForward":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(*self._errors):
            await self._send(b"", _CLOSE)
        await self._stack.aclose()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Carry bytes both ways until either side ends; return why the pod's side could not, empty where it could."""
        up = asyncio.create_task(self._up(reader))
        down = asyncio.create_task(self._down(writer))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            _, outcome = await asyncio.gather(up, down, return_exceptions=True)
        if isinstance(outcome, ApiError | OSError):
            return str(outcome)
        return outcome if isinstance(outcome, str) else ""

    async def _up(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._send(bytes([_DATA]) + chunk)

    async def _send(self, payload: bytes, opcode: int = _BINARY) -> None:
        async with self._turn:
            await self._stream.write(frame(payload, opcode), REQUEST_SECONDS)

    async def _down(self, writer: asyncio.StreamWriter) -> str:
        announced = {_DATA: _PORT_BYTES, _ERROR: _PORT_BYTES}
        try:
            async for message in self._messages():
                channel, told = message[0], message[1:]
                skipped = min(announced.get(channel, 0), len(told))
                if skipped:
                    announced[channel] -= skipped
                    told = told[skipped:]
                if channel == _ERROR and told:
                    said = ascii(told.decode("utf-8", "replace").strip()[:_LONGEST_SENTENCE])[1:-1]
                    return f"the kubelet cannot reach the port: {said}"
                if channel == _DATA and told:
                    writer.write(told)
                    await writer.drain()
        except self._errors as error:
            return f"the API server broke the connection: {str(error) or type(error).__name__}"
        return ""

    async def _messages(self) -> AsyncIterator[bytes]:
        """Yield every message of a channel, until the other side ends.

        Raises:
            ApiError: it ended without a word.
        """
        frames = Frames()
        while chunk := await self._stream.read(_CHUNK_BYTES):
            for opcode, message in frames.read(chunk):
                if opcode == _CLOSE:
                    return
                if opcode == _PING:
                    await self._send(message, _PONG)
                elif opcode in (_BINARY, _TEXT) and message:
                    yield message
        raise ApiError("the API server broke the connection")


def _bounded(length: int) -> None:
    if length > MAX_MESSAGE_BYTES:
        raise ApiError(f"the API server sends a message of more than {MAX_MESSAGE_BYTES} bytes")


def _refusal(status: int, body: bytes) -> ApiError:
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", "replace")
    if status == _OK:
        said = f"instead of opening a connection: {said}"
    return ApiError(f"the API server answers {status}: {ascii(said[:_LONGEST_SENTENCE])[1:-1]}", status)
