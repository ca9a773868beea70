# SPDX-License-Identifier: Apache-2.0
"""Guards the methods of a generated service against invalid messages and too many streams.

Law: what a client sends is the client's error. It is answered with INVALID_ARGUMENT or RESOURCE_EXHAUSTED, and never
with INTERNAL, which means a defect of this program.
"""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServicerContext

from keda_gpu_scaler.server.stream_limit import StreamLimit, TooManyStreamsError
from keda_gpu_scaler.server.undecodable_log import NOT_A_MESSAGE, UndecodableLog

_INVALID = object()


class CallGuard:
    """Wraps the handlers of one service.

    Args:
        log: logs invalid requests.
        streams: the limit of the service's streams; None where the service has its own.
    """

    def __init__(self, log: UndecodableLog, streams: StreamLimit | None = None) -> None:
        self._log = log
        self._streams = streams

    def guarded(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """Return a handler of a method that answers as this one does, and refuses what this one cannot decode."""
        decode, encode = _decoder(handler.request_deserializer), handler.response_serializer
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), decode, encode)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), decode, encode)
        return grpc.stream_stream_rpc_method_handler(self._streams_both(method, handler.stream_stream), decode, encode)

    def _unary(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def unary(request: Any, context: ServicerContext) -> Any:
            return await behavior(await self._checked(method, request, context), context)

        return unary

    def _stream(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def stream(request: Any, context: ServicerContext) -> None:
            request = await self._checked(method, request, context)
            async with self._opened(context):
                await write_messages(behavior(request, context), context)

        return stream

    def _streams_both(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def both(requests: AsyncIterator[Any], context: ServicerContext) -> None:
            async with self._opened(context):
                await write_messages(behavior(self._all_checked(method, requests, context), context), context)

        return both

    async def _all_checked(
        self, method: str, requests: AsyncIterator[Any], context: ServicerContext
    ) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._checked(method, request, context)

    async def _checked(self, method: str, request: Any, context: ServicerContext) -> Any:
        """Return the request, or answer with INVALID_ARGUMENT if it is not a message."""
        if request is _INVALID:
            self._log.note(method, context.peer())
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, NOT_A_MESSAGE)
        return request

    @contextlib.asynccontextmanager
    async def _opened(self, context: ServicerContext) -> AsyncIterator[None]:
        """Count a stream as open for the duration of the block, or answer with RESOURCE_EXHAUSTED at a limit."""
        with contextlib.ExitStack() as stack:
            if self._streams is not None:
                try:
                    stack.enter_context(self._streams.opened(context.peer()))
                except TooManyStreamsError as error:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            yield


async def write_messages(result: Any, context: ServicerContext) -> None:
    """Send the messages of a method: it yields them, or it is a coroutine that writes them itself."""
    if not isinstance(result, AsyncIterable):
        await result
        return
    async for message in result:
        await context.write(message)


def _decoder(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer without errors: gRPC would answer an error with INTERNAL."""

    def decode(request: bytes) -> Any:
        try:
            return deserialize(request)
        except DecodeError:
            return _INVALID

    return decode
