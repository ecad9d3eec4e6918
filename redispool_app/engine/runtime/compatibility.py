"""All names of redis-py, asyncio and ssl that this package overrides or reads although they are not public.

``NAMES`` is the list. ``find_misses`` compares it with the installed packages. A method must exist and accept the
expected parameters. An attribute must appear in a method of its class. Without this check, a renamed method in a later
release would go unnoticed: Python would no longer call the override.
"""

from __future__ import annotations

import inspect
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["NAMES", "TESTED", "Miss", "Name", "find_misses", "require"]

TESTED = "redis>=8.1,<9"
"""The releases of redis-py that pass the test suite. ``pyproject.toml`` declares the same."""


class Name(NamedTuple):
    """One foreign name.

    ``parameters`` is what the method must accept, in order. ``=name`` is a parameter that is passed by its name. None:
    the name is an attribute of instances. ``essential``: without it a command could be sent twice, or a caller could
    get a wrong reply.
    """

    owner: str
    name: str
    parameters: str | None
    purpose: str
    essential: bool


class Miss(NamedTuple):
    """A name that differs from what ``NAMES`` expects."""

    name: Name
    problem: str

    @property
    def fault(self) -> str:
        """What is wrong, and what depends on it."""
        owner = self.name.owner.replace(":", ".").strip(".")
        return f"{owner}.{self.name.name} {self.problem}: {self.name.purpose} depends on it"

    @property
    def cure(self) -> str:
        """What to install."""
        return (
            f"run pip install '{TESTED}' (installed: {_installed(self.name.owner.replace(':', '.').partition('.')[0])})"
        )

    def __str__(self) -> str:
        return f"{self.fault}; {self.cure}"


_OUTCOME = "reporting a lost write as OutcomeUnknown instead of sending it again"
_SHARING = "sharing one connection"
_UNIT = "sending a pipeline as one unit"
_RESULT = "deciding about a lost pipeline"
_WATCH = "detecting the loss of a connection that watched keys"
_REPORT = "counting connections and reporting their failures"
_ACCOUNT = "tracking the state that a pipeline leaves on its connection"
_INTERRUPT = "closing a connection whose reply an interrupt left unread"
_HANDSHAKE = "naming connections and explaining refused handshakes"
_ADDRESS = "connecting within one timeout, with any name server"
_POOL = "the fair pool of connections"
_TAKE = "taking over the transport of a connection"
_ABANDON = "closing the sockets of an event loop that has ended"
_FORK = "dropping inherited connections in a forked child"
_LOCK = "locks that outlive a reset of the pool"
_REDACTION = "hiding the error texts of a credential provider"
_LIMIT = "keeping a health check within its timeout"
_PATIENCE = "waiting for a reply that may take long"
_WAKE = "waking callers after an interrupt has lost their callback"
_LOST = "replacing an attempt to connect after an interrupt has lost a step"
_TIMERS = "running timers on time after an interrupt"
_STREAM = "logging in with a streamed token of a credential provider"
_EXPORT = "the exporter of histograms"
_WARN = "warning about a client that was never closed"


def _methods(owner: str, purpose: str, essential: bool, **parameters: str) -> Iterator[Name]:
    for name, expected in parameters.items():
        yield Name(owner, name, f"self, {expected}" if expected else "self", purpose, essential)


def _attributes(owner: str, purpose: str, essential: bool, *names: str) -> Iterator[Name]:
    for name in names:
        yield Name(owner, name, None, purpose, essential)


def _client(owner: str, close: str) -> Iterator[Name]:
    parse = "conn, command_name, *args, **options"
    yield from _methods(owner, _OUTCOME, True, _send_command_parse_response=parse, _close_connection="conn, error")
    yield from _methods(owner, _SHARING, True, execute_command="*args, **options", pipeline="transaction, shard_hint")
    yield from _methods(owner, _SHARING, False, **{close: ""})
    yield from _methods(owner, _PATIENCE, False, monitor="")


def _pipeline(owner: str) -> Iterator[Name]:
    watching = {f"_disconnect_{what}_on_watching": "conn, error" for what in ("raise", "reset_raise")}
    yield from _methods(owner, _OUTCOME, True, **watching)
    execute = "connection, commands, raise_on_error"
    yield from _methods(owner, _RESULT, True, _execute_pipeline=execute, _execute_transaction=execute)
    yield from _methods(owner, _UNIT, True, execute="raise_on_error")
    yield from _methods(owner, _WATCH, True, reset="")


def _connection(owner: str, disconnect: str) -> Iterator[Name]:
    yield from _methods(owner, _REPORT, False, disconnect=disconnect)
    yield from _methods(
        owner, _HANDSHAKE, False, on_connect_check_health="=check_health", send_command="*args, **kwargs"
    )
    read = "=disable_decoding, =timeout, =disconnect_on_error, =push_request"
    yield from _methods(owner, _INTERRUPT, True, send_packed_command="command, =check_health", read_response=read)
    yield from _methods(owner, _ACCOUNT, False, pack_commands="commands")
    yield from _methods(owner, "error messages that name the server", False, _host_error="")
    yield from _attributes(owner, _TAKE, True, "_parser")


def _pool(owner: str) -> Iterator[Name]:
    made = {"__init__": "connection_class, max_connections, =maint_notifications_config, **connection_kwargs"}
    yield from _methods(owner, _POOL, True, **made)
    borrow = {"get_connection": "command_name, *keys, **options", "release": "connection", "reset": ""}
    yield from _methods(owner, _POOL, True, **borrow)
    yield from _attributes(owner, _POOL, False, "_available_connections", "_in_use_connections", "_event_dispatcher")


_SYNC, _ASYNC = "redis.connection", "redis.asyncio.connection"
_DISCONNECT_ASYNC = "nowait, =error, =failure_count, =health_check_failed"

NAMES: tuple[Name, ...] = (
    # Clients and pipelines.
    *_client("redis.client:Redis", "close"),
    *_client("redis.asyncio.client:Redis", "aclose"),
    *_attributes("redis.client:Redis", _SHARING, True, "_single_connection_client"),
    *_methods("redis.asyncio.client:Redis", _WARN, False, __del__="_warn, _grl"),
    *_methods("redis.client:Monitor", _PATIENCE, False, next_command=""),
    *_methods("redis.asyncio.client:Monitor", _PATIENCE, False, next_command=""),
    *_pipeline("redis.client:Pipeline"),
    *_pipeline("redis.asyncio.client:Pipeline"),
    # Connections.
    *_connection(f"{_SYNC}:AbstractConnection", "*args, **kwargs"),
    *_connection(f"{_ASYNC}:AbstractConnection", _DISCONNECT_ASYNC),
    *_attributes(f"{_SYNC}:AbstractConnection", _TAKE, True, "_sock"),
    *_attributes(f"{_SYNC}:AbstractConnection", _FORK, False, "_connect_callbacks"),
    *_attributes(f"{_SYNC}:AbstractConnection", "sending text in the configured encoding", True, "_command_packer"),
    *_methods(f"{_ASYNC}:AbstractConnection", _REPORT, False, __del__="_warnings"),
    *_attributes(f"{_ASYNC}:AbstractConnection", _TAKE, True, "_reader", "_writer"),
    *_methods(f"{_ASYNC}:AbstractConnection", "closing idle connections", False, _close=""),
    *_methods(f"{_SYNC}:Connection", _ADDRESS, False, _connect=""),
    *_methods(f"{_SYNC}:SSLConnection", _REPORT, False, _connect=""),
    *_methods(f"{_SYNC}:UnixDomainSocketConnection", _REPORT, False, _connect=""),
    *_attributes(f"{_SYNC}:Connection", _ADDRESS, False, "_host"),
    *_attributes(f"{_SYNC}:CacheProxyConnection", _PATIENCE, False, "_conn"),
    *_methods(f"{_ASYNC}:Connection", _ADDRESS, False, _connect="", _connection_arguments=""),
    *_methods(f"{_ASYNC}:SSLConnection", _ADDRESS, False, _connection_arguments=""),
    *_methods(f"{_ASYNC}:UnixDomainSocketConnection", _REPORT, False, _connect=""),
    # Pools.
    *_pool(f"{_SYNC}:ConnectionPool"),
    *_pool(f"{_ASYNC}:ConnectionPool"),
    *_methods(f"{_SYNC}:ConnectionPool", _POOL, False, _checkpid="", make_connection=""),
    # The rest of redis-py.
    *_methods("redis.credentials:CredentialProvider", _REDACTION, False, get_credentials="", get_credentials_async=""),
    *_methods("redis.backoff:AbstractBackoff", _LIMIT, False, compute="failures", reset=""),
    *_attributes("redis.retry:AbstractRetry", _LIMIT, False, "_backoff"),
    *_methods(
        "redis.asyncio.lock:Lock", _LOCK, False, do_acquire="token", do_release="expected_token", do_reacquire=""
    ),
    *_methods("redis.asyncio.lock:Lock", _LOCK, False, do_extend="additional_time, replace_ttl"),
    *_methods("redis.asyncio.lock:Lock", _LOCK, False, locked="", owned=""),
    *_attributes(f"{_SYNC}:AbstractConnection", _STREAM, False, "_re_auth_token"),
    *_attributes(f"{_ASYNC}:AbstractConnection", _STREAM, False, "_re_auth_token"),
    *_attributes("redis.event:EventDispatcher", _STREAM, False, "_event_listeners_mapping"),
    *_methods("redis.credentials:StreamingCredentialProvider", _STREAM, False, on_next="callback", on_error="callback"),
    *_methods("redis.credentials:StreamingCredentialProvider", _STREAM, False, is_streaming=""),
    *_methods(f"{_SYNC}:ConnectionPool", _STREAM, False, re_auth_callback="token"),
    *_methods(f"{_ASYNC}:ConnectionPool", _STREAM, False, re_auth_callback="token"),
    Name("redis._defaults:", "DEFAULT_SOCKET_TIMEOUT", None, "the default timeout of a client", False),
    # asyncio and ssl.
    *_methods("asyncio:BaseProtocol", _SHARING, True, connection_lost="exc", pause_writing="", resume_writing=""),
    *_methods("asyncio:Protocol", _SHARING, True, data_received="data", eof_received=""),
    *_methods(
        "asyncio:BufferedProtocol", _SHARING, True, get_buffer="sizehint", buffer_updated="nbytes", eof_received=""
    ),
    *_attributes("asyncio:", _FORK, True, "_get_running_loop", "_set_running_loop"),
    *_methods("asyncio:BaseEventLoop", _WAKE, False, call_soon="callback, *args, =context"),
    *_attributes("asyncio:BaseEventLoop", _WAKE, False, "_ready"),
    *_attributes("asyncio:BaseEventLoop", _TIMERS, False, "_scheduled"),
    *_attributes("asyncio:Task", _LOST, False, "_fut_waiter", "_log_destroy_pending"),
    *_attributes("asyncio:Handle", _WAKE, False, "_callback", "_args"),
    *_attributes("asyncio:StreamReader", _TAKE, True, "_buffer"),
    *_attributes("ssl:SSLSocket", _TAKE, True, "_sslobj"),
    *_methods("asyncio.selector_events:_SelectorTransport", _ABANDON, False, _call_connection_lost="exc"),
    *_attributes("asyncio.selector_events:_SelectorTransport", _ABANDON, False, "_conn_lost"),
    *_attributes("asyncio.sslproto:_SSLProtocolTransport", _ABANDON, False, "_ssl_protocol"),
    *_attributes("asyncio.sslproto:SSLProtocol", _ABANDON, False, "_transport"),
    # OpenTelemetry.
    *_attributes("opentelemetry.sdk.metrics.export:MetricExporter", _EXPORT, False, "_preferred_temporality"),
    *_attributes("opentelemetry.sdk.metrics.export:MetricExporter", _EXPORT, False, "_preferred_aggregation"),
)


def find_misses(names: Iterable[Name] = NAMES) -> list[Miss]:
    """Return the differences from the installed packages. No I/O; takes a few milliseconds."""
    return [Miss(name, problem) for name in names if (problem := _problem_of(name)) is not None]


_required = False


def require() -> None:
    """Raise ``RuntimeError`` if an essential name is missing. Warn about the others. Works once per process."""
    global _required
    if _required:
        return
    misses = find_misses()
    for miss in misses:
        if miss.name.essential:
            raise RuntimeError(str(miss))
    _required = True
    for miss in misses:
        warnings.warn(str(miss), RuntimeWarning, stacklevel=3)


def _problem_of(name: Name) -> str | None:
    module, _, class_name = name.owner.partition(":")
    if module.startswith("opentelemetry.") and module not in sys.modules:
        return None  # not used in this process
    try:
        owner: Any = import_module(module)
        owner = getattr(owner, class_name) if class_name else owner
    except (ImportError, AttributeError):
        return "does not exist"
    found: Any = inspect.getattr_static(owner, name.name, None)
    if name.parameters is None:
        return None if found is not None or name.name in _mentioned(owner) else "does not exist"
    function = getattr(found, "__func__", found)
    if not callable(function):
        return "does not exist"
    return _compare(list(inspect.signature(function).parameters.values()), name.parameters.split(", "))


def _mentioned(owner: Any) -> set[str]:
    """Return the names in the methods of a class, including the attributes of its instances."""
    codes = [getattr(each, "__code__", None) for base in inspect.getmro(owner) for each in vars(base).values()]
    return {name for code in codes if isinstance(code, CodeType) for name in code.co_names}


def _compare(found: list[inspect.Parameter], expected: list[str]) -> str | None:
    """Describe what is wrong with a method's parameters. Unexpected ones must be optional."""
    marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    shown = [marks.get(each.kind, "") + each.name for each in found]
    by_position = [each for each in expected if not each.startswith(("=", "*"))]
    rest = {each.lstrip("=") for each in expected if each.startswith(("=", "*"))}
    taken = set(by_position) | rest
    if shown[: len(by_position)] != by_position or not rest.issubset(shown):
        return f"takes ({', '.join(shown)}) and not ({', '.join(expected)})"
    for each, text in zip(found, shown, strict=True):
        if text not in taken and each.default is each.empty and each.kind not in marks:
            return f"needs the parameter {each.name!r}"
    return None


def _installed(package: str) -> str:
    """Return the installed release of a package, or of Python for a module of it."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"Python {platform.python_version()}"
