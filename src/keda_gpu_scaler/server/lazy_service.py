# SPDX-License-Identifier: Apache-2.0
"""A gRPC service whose modules are imported by its first call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc


class Registrar(Protocol):
    """The part of a gRPC server with which a service is added to it."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add handlers."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Add handlers once more, by name."""


Guard = Callable[[str, grpc.RpcMethodHandler], grpc.RpcMethodHandler]


class LazyService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Adds a service to the server when it is called first.

    Most instances are never called by KEDA, and the modules that answer it take memory.

    Args:
        name: the service's full name.
        add: adds the service; called once.
        guard: returns the handler that serves a method, by the method's path and the service's own handler.
    """

    def __init__(self, name: str, add: Callable[[Registrar], None], guard: Guard | None = None) -> None:
        self._prefix = f"/{name}/"
        self._add = add
        self._guard = guard
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Accept the handlers of the service."""
        self._handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Ignore these: they are the same handlers."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call, or None where the call is another service's."""
        if not handler_call_details.method.startswith(self._prefix):
            return None
        if not self._handlers:
            self._add(self)
        method: str = handler_call_details.method
        if method in self._guarded:
            return self._guarded[method]
        found = (handlers.service(handler_call_details) for handlers in self._handlers)
        handler = next((handler for handler in found if handler is not None), None)
        if handler is None or self._guard is None:
            return handler
        return self._guarded.setdefault(method, self._guard(method, handler))
