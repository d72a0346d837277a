"""Connections that clients leave open: how many there may be, which go first, and a server that is held up by none of them."""

import json
import logging
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from emogen.server.connections import Connections, OnceAMinute, most_connections

HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
HALF_BODY = HALF_HEAD + b"Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n{"


class Client:
    """A connection as `Connections` sees it."""

    def __init__(self, address="a", waits=True, head=True, stuck=False):
        self.address, self.waits_for_client, self.waits_for_head, self.is_stuck = address, waits, head, stuck
        self.is_aborted = False
        self.transport = SimpleNamespace(abort=self.abort)

    def abort(self):
        self.is_aborted = True


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0)


@pytest.fixture
def connections(clock):
    return Connections(3, head_seconds=10, send_seconds=5, clock=lambda: clock.now)


def test_beyond_the_limit_the_longest_idle_of_the_address_with_most_goes(connections, clock, caplog):
    busy, first, second = Client("a", waits=False), Client("b"), Client("b")
    for client in (busy, first, second):
        clock.now += 1
        assert connections.add(client)
    lone = Client("c")
    assert connections.add(lone)
    assert [client.is_aborted for client in (busy, first, second, lone)] == [False, True, False, False]
    assert connections.add(Client("d", waits=False))
    assert second.is_aborted
    assert len(connections) == 3
    (record,) = caplog.records
    assert record.getMessage().startswith("3 connections are open, which is all that may")


def test_where_all_are_being_served_the_newcomer_goes(connections):
    for _ in range(3):
        assert connections.add(Client(waits=False, head=False))
    assert not connections.add(Client())
    assert len(connections) == 3


def test_who_keeps_still_is_closed(connections, clock):
    """Without a request after 10 s, with an answer unread after 5 s; who is being answered may take his time."""
    silent, served, stuck = Client(), Client(waits=False, head=False), Client(head=False, stuck=True)
    for client in (silent, served, stuck):
        connections.add(client)
    clock.now = 5
    connections.sweep()
    assert not stuck.is_aborted
    clock.now = 6
    connections.sweep()
    assert [client.is_aborted for client in (silent, served, stuck)] == [False, False, True]
    connections.note(silent)
    clock.now = 16
    connections.sweep()
    assert not silent.is_aborted
    clock.now = 17
    connections.sweep()
    assert [client.is_aborted for client in (silent, served)] == [True, False]
    assert len(connections) == 1


def test_fewer_connections_than_files(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert most_connections(1000) == 1024 - 128 - 64
    assert most_connections(500) == 500
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert most_connections(1000) == 1
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert most_connections(1000) == 1000


def test_a_line_of_others_once_a_minute(clock):
    passes = OnceAMinute(lambda: clock.now)
    record = logging.makeLogRecord({"name": "uvicorn.error", "msg": "Invalid HTTP request received."})
    assert [passes.filter(record) for _ in range(3)] == [True, False, False]
    assert passes.filter(logging.makeLogRecord({"name": "uvicorn.error", "msg": "Something else."}))
    clock.now = 61
    assert passes.filter(record)


@pytest.fixture(scope="module")
def port(tiny_checkpoint, tmp_path_factory):
    """A server that keeps eight connections, and gives a client a second to send."""
    options = ["--port", "0", "--recognizer", "none", "--most-connections", "8", "--body-seconds", "1", "--max-batch-size", "2"]
    command = [sys.executable, "-m", "emogen", "serve", "--checkpoint", str(tiny_checkpoint), *options]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as lines, subprocess.Popen(command, stderr=lines) as process:
        while " at http://" not in log.read_text():
            assert process.poll() is None
        yield int(log.read_text().rpartition(":")[2])
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert log.read_text().count("all that may") <= 1
    assert "Traceback" not in log.read_text()


def connect(port, begin=b""):
    found = socket.create_connection(("127.0.0.1", port), timeout=30)
    found.sendall(begin)
    return found


def send_for_ever(client, request):
    while True:
        client.sendall(request)


def status(port):
    with connect(port, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as client:
        return client.makefile("rb").readline()


@pytest.mark.parametrize("begin", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "half a head", "half a body"])
def test_who_sends_nothing_holds_nobody_up(port, begin):
    """Twelve such connections, more than there may be: others are answered, and the twelve are closed."""
    hostile = [connect(port, begin) for _ in range(12)]
    assert status(port) == b"HTTP/1.1 200 OK\r\n"
    for client in hostile:
        with client:
            try:
                rest = client.recv(65536)
            except ConnectionResetError:
                rest = b""
            assert rest == b"" or rest.startswith(b"HTTP/1.1 408")
    assert status(port) == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("raw", [b"\x16\x03\x01 hello\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_told_in_the_usual_shape(port, raw):
    with connect(port, raw) as client:
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_request"


def test_who_asks_before_he_is_answered_is_not_served_further(port):
    """Three requests at once: the first is answered, and the connection closed."""
    with connect(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3) as client:
        assert client.makefile("rb").read().count(b"HTTP/1.1 200 OK") == 1


def test_who_reads_nothing_is_let_go(port):
    """Requests without end whose answers nobody reads: the connection is closed, and the place is free."""
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
    with connect(port) as client, pytest.raises(OSError, match=r"reset|Broken pipe"):
        send_for_ever(client, request)
    assert status(port) == b"HTTP/1.1 200 OK\r\n"
