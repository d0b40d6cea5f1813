"""A port that several processes of ours serve: held for them, refused to others, silent where nobody listens."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from outpost import errors
from outpost.process.http_server import ports

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[ports.SharedPort]:
    with contextlib.closing(ports.SharedPort(HOST, 0)) as shared:
        yield shared


def test_only_those_that_listen_are_reached(port: ports.SharedPort) -> None:
    with port.socket(), port.socket() as listens:
        with socket.socket() as client:
            assert client.connect_ex((HOST, port.number))
        listens.listen(64)
        for _ in range(20):
            with socket.create_connection((HOST, port.number), 5), listens.accept()[0]:
                pass


def test_connections_are_spread_over_those_that_listen(port: ports.SharedPort) -> None:
    with port.socket() as one, port.socket() as two:
        for each in (one, two):
            each.listen(128)
            each.setblocking(False)
        with contextlib.ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(socket.create_connection((HOST, port.number), 5))
            assert 64 == _accepted(one, stack) + (second := _accepted(two, stack))
            assert 0 < second < 64


def _accepted(listening: socket.socket, stack: contextlib.ExitStack) -> int:
    number = 0
    while True:
        try:
            stack.enter_context(listening.accept()[0])
        except BlockingIOError:
            return number
        number += 1


@pytest.mark.case(32)
@pytest.mark.parametrize(
    ("host", "reached", "url"),
    [
        ("::", ["127.0.0.1", "::1"], "http://127.0.0.1:"),
        ("::1", ["::1"], "http://[::1]:"),
        ("0.0.0.0", ["127.0.0.1"], "http://127.0.0.1:"),
        ("localhost", ["localhost"], "http://"),
    ],
)
def test_an_address_of_any_family_is_listened_on_alone_and_shared(host: str, reached: list[str], url: str) -> None:
    shared = ports.SharedPort(host, 0)
    with contextlib.closing(shared), shared.socket() as one, ports.bind(host, 0) as alone:
        one.listen(8)
        for listening in (alone, one):
            assert ports.url_of(listening).startswith(url)
            for address in reached:
                with socket.create_connection((address, listening.getsockname()[1]), 5), listening.accept()[0]:
                    pass


def test_another_server_cannot_have_it(port: ports.SharedPort) -> None:
    with port.socket() as listens:
        listens.listen(1)
        for other in (ports.bind, ports.SharedPort):
            with pytest.raises(errors.StartRefused, match="API_PORT"):
                other(HOST, port.number)


def test_a_port_that_another_server_has_is_refused() -> None:
    with ports.bind(HOST, 0) as taken, pytest.raises(errors.StartRefused, match="API_PORT"):
        ports.SharedPort(HOST, taken.getsockname()[1])
