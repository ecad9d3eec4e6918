"""Names what is wrong with a server: an exception goes in, a kind and one line that names the cure come out.

Error prefixes are those of the Redis protocol (``LOADING``, ``READONLY``, ``OOM``, ``NOAUTH``, ``WRONGPASS``,
``NOPERM``, ``MISCONF``, ``MASTERDOWN``, ``NOREPLICAS``, ``BUSY``):
https://redis.io/docs/latest/develop/reference/protocol-spec/. Those of a cluster (``MOVED``, ``ASK``, ``CROSSSLOT``,
``CLUSTERDOWN``, ``TRYAGAIN``): https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import (
    CredentialProviderError,
    ReplyTooLargeError,
    UnansweredCredentialsError,
    UnansweredHandshakeError,
    UnansweredNameError,
)
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable


class FaultKind(StrEnum):
    """Kinds of faults. The names are stable, for log queries, metric labels and alert rules."""

    AUTH = "auth"
    BUSY = "busy"
    CLOSED = "closed"
    CLUSTER = "cluster"
    DATABASE = "database"
    DESCRIPTORS = "descriptors"
    DNS = "dns"
    EMBEDDED = "embedded"
    EXHAUSTED = "exhausted"
    HELD_BACK = "held_back"
    LOADING = "loading"
    MASTERDOWN = "masterdown"
    MAXCLIENTS = "maxclients"
    MEMORY = "memory"
    MISCONF = "misconf"
    NOREPLICAS = "noreplicas"
    NOT_REDIS = "not_redis"
    OOM = "oom"
    READONLY = "readonly"
    REFUSED = "refused"
    SENTINEL = "sentinel"
    TIMEOUT = "timeout"
    TLS = "tls"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"


# The server answered and only this command failed. The status page shows it; the pool's health does not change.
ANSWERED = frozenset(
    {
        FaultKind.BUSY,
        FaultKind.CLUSTER,
        FaultKind.MASTERDOWN,
        FaultKind.MISCONF,
        FaultKind.NOREPLICAS,
        FaultKind.OOM,
        FaultKind.READONLY,
    }
)

# The end of one connection does not prove an outage. The next caller checks with a PING.
AMBIGUOUS = frozenset({FaultKind.AUTH, FaultKind.CLOSED, FaultKind.MEMORY, FaultKind.UNKNOWN})


class ClusterNodeError(redis_exceptions.ResponseError):
    """The server is in cluster mode and does not serve every hash slot. Most commands would be answered with MOVED."""


class SentinelAnswersError(redis_exceptions.ResponseError):
    """A Sentinel answered in place of a server."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: a stable kind, and one line of text for people."""

    kind: FaultKind
    message: str


def classify(error: BaseException, where: str, *, speaks_tls: bool = False) -> Fault:
    """Classify an exception raised while talking to the server at ``where`` (host:port or a socket's path).

    ``speaks_tls``: a connection to it has been made before. An end within TLS then concerns one connection only.

    The message never repeats credentials. It is built from ``where`` and the first line of the text of the server or
    the operating system.
    """
    if isinstance(error, RedisUnavailable):
        known = error.kind if error.kind in list(FaultKind) else FaultKind.UNKNOWN
        return Fault(FaultKind(known), str(error))
    # Errors of this process itself. The server has no part in them.
    if isinstance(error, PoolClosed):
        return Fault(FaultKind.CLOSED, str(error))
    if isinstance(error, PoolTimeout | PoolQueueFull):
        return Fault(FaultKind.EXHAUSTED, str(error))
    if isinstance(error, OutcomeUnknown):
        # This error covers every kind of loss. Its cause tells which one it is.
        error = _loss(error)
    if isinstance(error, CredentialProviderError):
        return _without_credentials(error, where)
    if isinstance(error, ReplyTooLargeError | MemoryError):
        return Fault(
            FaultKind.MEMORY,
            f"This process has no memory for a reply of Redis at {where}: ask for less at once, or allow it more.",
        )
    if speaks_tls and isinstance(_system_error(error), (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        error = ConnectionResetError()
    return _from_reply(error, where) or _from_system(error, where) or _from_client(error, where)


def _without_credentials(error: BaseException, where: str) -> Fault:
    return Fault(FaultKind.AUTH, f"There are no credentials for Redis at {where}: {_first_line(error)}")


def _loss(error: OutcomeUnknown) -> BaseException:
    """Return the cause of a lost reply. A copied or pickled exception keeps only its text."""
    loss = error.__cause__
    if loss is None:
        text = str(error)
        timeout = "timeout" in text.lower() or "timed out" in text.lower()
        return redis_exceptions.TimeoutError(text) if timeout else redis_exceptions.ConnectionError(text)
    return redis_exceptions.TimeoutError(str(loss)) if getattr(loss, "stuck", False) else loss


def _from_reply(error: BaseException, where: str) -> Fault | None:
    """Faults that the server states itself."""
    said = _first_line(error)
    lowered = said.lower()
    if "max number of clients reached" in lowered:
        return Fault(
            FaultKind.MAXCLIENTS,
            f"Redis at {where} has reached its client limit: raise its maxclients or lower MAX_CONNECTIONS.",
        )
    if said.startswith("DENIED"):
        return Fault(
            FaultKind.AUTH,
            f"Redis at {where} is in protected mode and refuses other machines: set a password there, then PASSWORD.",
        )
    if isinstance(error, redis_exceptions.BusyLoadingError) or said.startswith("LOADING"):
        return Fault(FaultKind.LOADING, f"Redis at {where} is still loading its data set: wait until it is done.")
    if isinstance(error, redis_exceptions.NoPermissionError):
        return Fault(FaultKind.AUTH, f"Redis at {where} denies this user a command: correct its ACL ({said}).")
    if isinstance(
        error,
        redis_exceptions.AuthenticationError
        | redis_exceptions.AuthorizationError
        | redis_exceptions.AuthenticationWrongNumberOfArgsError,
    ):
        if "required" in lowered or said.startswith("NOAUTH"):
            return Fault(FaultKind.AUTH, f"Redis at {where} asks for a password: set PASSWORD in REDIS_POOL.")
        if "without any password configured" in lowered or "no password is set" in lowered:
            return Fault(FaultKind.AUTH, f"Redis at {where} has no password: remove PASSWORD, or set one there.")
        return Fault(
            FaultKind.AUTH,
            f"Redis at {where} rejects the credentials: correct USERNAME and PASSWORD in REDIS_POOL.",
        )
    if isinstance(error, redis_exceptions.InvalidResponse):
        return Fault(
            FaultKind.NOT_REDIS,
            f"{where} answers, but not in the Redis protocol: correct the port, or use rediss:// if it speaks TLS.",
        )
    if isinstance(error, redis_exceptions.ReadOnlyError) or said.startswith("READONLY"):
        return Fault(
            FaultKind.READONLY,
            f"Redis at {where} is a read-only replica: point CONNECTION_URL at the primary to write.",
        )
    if isinstance(error, redis_exceptions.OutOfMemoryError) or said.startswith("OOM"):
        return Fault(
            FaultKind.OOM,
            f"Redis at {where} is out of memory and refuses writes: raise maxmemory or set an eviction policy.",
        )
    if isinstance(error, redis_exceptions.MasterDownError) or said.startswith("MASTERDOWN"):
        return Fault(
            FaultKind.MASTERDOWN,
            f"Redis at {where} is a replica that has lost its primary: restore the link.",
        )
    if isinstance(error, SentinelAnswersError):
        return Fault(
            FaultKind.SENTINEL,
            f"A Sentinel answers at {where}: set CONNECTION_URL to the address of the primary that it watches.",
        )
    if isinstance(error, redis_exceptions.ResponseError):
        if (fault := _from_cluster(error, said, where)) is not None:
            return fault
        if said.startswith("MISCONF"):
            return Fault(FaultKind.MISCONF, f"Redis at {where} cannot save and refuses writes: check its disk and log.")
        if said.startswith("NOREPLICAS"):
            return Fault(
                FaultKind.NOREPLICAS,
                f"Redis at {where} refuses writes while it has too few replicas: restore them, "
                "or lower its min-replicas-to-write.",
            )
        if said.startswith("BUSY ") or "is busy running" in lowered:
            return Fault(FaultKind.BUSY, f"Redis at {where} is busy with a script: wait, or SCRIPT KILL it.")
        if "db index is out of range" in lowered or "invalid db index" in lowered:
            return Fault(
                FaultKind.DATABASE,
                f"Redis at {where} has no database of that number: correct DB or the number in CONNECTION_URL.",
            )
        if (missing := _UNKNOWN_COMMAND.search(said)) is not None:
            return _without_command(missing[1].upper(), where)
    return None


_UNKNOWN_COMMAND = re.compile(r"unknown command .?(hello|select)\b", re.IGNORECASE)
"""Commands that every connection needs once PROTOCOL is 3 or a database has been chosen."""


def _without_command(name: str, where: str) -> Fault:
    if name == "HELLO":
        return Fault(FaultKind.UNKNOWN, f"Redis at {where} does not know HELLO: set PROTOCOL to 2 in REDIS_POOL.")
    return Fault(
        FaultKind.DATABASE,
        f"Redis at {where} has no databases to choose from (a Sentinel or a proxy?): correct CONNECTION_URL, "
        "or remove the number of the database from it.",
    )


_ELSEWHERE = (
    ClusterNodeError,
    redis_exceptions.AskError,  # also MOVED
    redis_exceptions.ClusterDownError,
)


def says_elsewhere(error: BaseException) -> bool:
    """Whether a reply says that this server does not serve every hash slot."""
    return isinstance(error, _ELSEWHERE) or str(error).startswith(("MOVED ", "ASK ", "CLUSTERDOWN "))


_HEALTH_CHECK = re.compile(r"'(ping|cluster\|nodes|client\|setinfo|client\|setname)' command")


def denies_health_check(error: BaseException) -> bool:
    """Whether an ACL denies a command of this package that it can do without."""
    return isinstance(error, redis_exceptions.NoPermissionError) and bool(_HEALTH_CHECK.search(str(error)))


def _from_cluster(error: redis_exceptions.ResponseError, said: str, where: str) -> Fault | None:
    """Faults that only servers in cluster mode report."""
    if says_elsewhere(error):
        return Fault(
            FaultKind.CLUSTER,
            f"Redis at {where} is a node of a cluster and does not serve every key: "
            "use a server without cluster mode (cluster-enabled no).",
        )
    if isinstance(error, redis_exceptions.ClusterCrossSlotError | redis_exceptions.TryAgainError) or said.startswith(
        ("CROSSSLOT", "TRYAGAIN", "SELECT is not allowed in cluster mode")
    ):
        return in_cluster_mode(where)
    return None


def holds_writes_back(where: str) -> Fault:
    """Return the fault of a server that answers on one connection and leaves writes on another one unanswered."""
    return Fault(
        FaultKind.HELD_BACK,
        f"Redis at {where} answers, but holds writes back: wait for the end of its CLIENT PAUSE or failover.",
    )


def in_cluster_mode(where: str) -> Fault:
    """Return the fault of a server in cluster mode that serves every key. It works, within limits."""
    return Fault(
        FaultKind.CLUSTER,
        f"Redis at {where} is in cluster mode: the keys of one command must share a hash slot, and there may be only "
        "database 0. Use a server without cluster mode (cluster-enabled no).",
    )


def _from_system(error: BaseException, where: str) -> Fault | None:
    """Faults that the operating system or the TLS library reports below redis-py's exception."""
    if isinstance(error, redis_exceptions.TimeoutError | TimeoutError):
        for cause in _chain(error):
            if isinstance(cause, UnansweredNameError):
                return Fault(
                    FaultKind.DNS,
                    f"The host name of {where} is not resolved in time: check the name server and the way there.",
                )
            if isinstance(cause, UnansweredCredentialsError):
                return _without_credentials(cause, where)
            if isinstance(cause, UnansweredHandshakeError):
                return Fault(
                    FaultKind.TLS,
                    f"{where} did not complete a TLS handshake in time: check that it runs, "
                    "and that this port speaks TLS (if not, use redis://).",
                )
        return None
    cause = _system_error(error)
    if isinstance(cause, socket.gaierror):
        return Fault(FaultKind.DNS, f"The host name of {where} does not resolve: correct CONNECTION_URL or the DNS.")
    if isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "verify_message", "") or getattr(cause, "reason", None) or "handshake failed"
        return Fault(
            FaultKind.TLS,
            f"TLS with {where} failed ({reason}): check the port, SSL_CA_CERTS and the certificate's name.",
        )
    numbers = _error_numbers(cause)
    if errno.ENOENT in numbers and not where.startswith(("/", "embedded:")):
        # No socket file is involved, so the missing file is a certificate.
        return Fault(FaultKind.TLS, f"A file that TLS with {where} needs is missing: correct the paths in SSL_*.")
    if numbers & {errno.ECONNREFUSED, errno.ENOENT}:
        return Fault(FaultKind.REFUSED, f"Nothing listens at {where}: start Redis or correct CONNECTION_URL.")
    if numbers & {errno.EMFILE, errno.ENFILE}:
        return Fault(
            FaultKind.DESCRIPTORS,
            "This process has no file descriptors left: raise its limit (ulimit -n) or close what leaks.",
        )
    if numbers & _UNREACHABLE:
        return Fault(
            FaultKind.UNREACHABLE,
            f"{where} cannot be reached ({_first_line(cause)}): check the route, the firewall and permissions.",
        )
    return None


_UNREACHABLE = {
    errno.EACCES,
    errno.EADDRNOTAVAIL,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPERM,
}


def _system_error(error: BaseException) -> BaseException:
    """Return the operating system's error behind ``error``; ``error`` itself if there is none.

    Only the nearest one counts. A deeper one may be the exception that the caller was handling when it used Redis. An
    end of file is reported without one.
    """
    if "closed by server" in str(error):
        return error
    return next((cause for cause in _chain(error) if isinstance(cause, OSError)), error)


def _error_numbers(cause: BaseException) -> set[int]:
    """Return the error numbers of ``cause``. There are several if asyncio tried several addresses of a host name."""
    number = getattr(cause, "errno", None)
    if number is None and isinstance(cause, OSError):
        return {int(found) for found in re.findall(r"\[Errno (\d+)\]", str(cause))}
    return {number} if number is not None else set()


def _from_client(error: BaseException, where: str) -> Fault:
    """Faults that only this side of the connection can see."""
    if isinstance(error, redis_exceptions.TimeoutError | TimeoutError):
        return Fault(
            FaultKind.TIMEOUT,
            f"Redis at {where} does not answer in time: check that it runs, its load and the network.",
        )
    if isinstance(error, redis_exceptions.ConnectionError | ConnectionError | EOFError):
        return Fault(
            FaultKind.CLOSED,
            f"Redis at {where} closed the connection: check its log (restart, timeout, limits).",
        )
    if not isinstance(error, redis_exceptions.RedisError | OSError):
        # The text belongs to other code and may contain secrets.
        return Fault(FaultKind.UNKNOWN, f"Redis at {where} failed: {type(error).__name__} was raised while connecting.")
    return Fault(FaultKind.UNKNOWN, f"Redis at {where} failed: {type(error).__name__}: {_first_line(error)}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def without_arguments(text: str) -> str:
    """Remove the arguments that a server repeats of an unknown command. For AUTH that is the password."""
    return text.partition(", with args beginning with:")[0]


def _first_line(error: BaseException) -> str:
    text = str(error)
    if text.startswith("Command # "):
        # In a pipeline redis-py puts the command, with the values to store, before the server's text.
        text = text.rpartition(" of pipeline caused error: ")[2].removeprefix("('").removesuffix("',)")
    lines = without_arguments(text).splitlines()
    return lines[0][:200] if lines else ""
