"""The invoke API: health, one case after the other, failures that leave the server healthy, and nothing else."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

import pytest
import uvicorn
from fastapi.testclient import TestClient

from mmpl.io.server import Answer, make_app


def no_failure() -> None:
    raise AssertionError("loading failed")


def start(answer: Answer, load: Callable[[], Answer] | None = None) -> TestClient:
    client = TestClient(make_app(load or (lambda: answer), no_failure))
    deadline = time.monotonic() + 10
    while load is None and client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return client


def test_health_is_503_until_the_models_are_there() -> None:
    loaded = threading.Event()

    def load() -> Answer:
        loaded.wait(10)
        return lambda: None

    client = start(lambda: None, load)
    assert client.get("/health").status_code == 503
    assert client.post("/invoke").status_code == 503
    loaded.set()
    while client.get("/health").status_code != 200:
        time.sleep(0.01)
    assert client.post("/invoke").status_code == 201


def test_every_invocation_answers_what_lies_there_now() -> None:
    answered: list[int] = []
    client = start(lambda: answered.append(len(answered)))
    assert [client.post("/invoke").status_code for _ in range(3)] == [201, 201, 201]
    assert answered == [0, 1, 2]


def test_a_failed_case_is_one_line_and_the_server_stays_healthy(caplog: pytest.LogCaptureFixture) -> None:
    failing = iter([True, False])

    def answer() -> None:
        if next(failing):
            raise ValueError("ct.mha: not a\n  readable image")

    client = start(answer)
    with caplog.at_level(logging.ERROR, logger="mmpl.io.server"):
        failed = client.post("/invoke")
    assert (failed.status_code, failed.text) == (500, "ct.mha: not a readable image")
    lines = [record.getMessage() for record in caplog.records if record.name == "mmpl.io.server"]
    assert lines == ["error: ct.mha: not a readable image"]
    assert client.get("/health").status_code == 200
    assert client.post("/invoke").status_code == 201


def test_a_second_case_at_once_is_turned_away() -> None:
    working, done = threading.Event(), threading.Event()

    def answer() -> None:
        working.set()
        done.wait(10)

    client = start(answer)
    codes: list[int] = []
    first = threading.Thread(target=lambda: codes.append(client.post("/invoke").status_code))
    first.start()
    assert working.wait(10)
    assert client.post("/invoke").status_code == 409
    assert client.get("/health").status_code == 200  # while it works
    done.set()
    first.join()
    assert codes == [201]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/", "/docs", "/redoc", "/openapi.json", "/invoke", "/health/", "/input")),
        *(("POST", path) for path in ("/health", "/", "/invoke/")),
    ],
)
def test_there_is_nothing_but_the_two_routes(method: str, path: str) -> None:
    response = start(lambda: None).request(method, path, follow_redirects=False)
    assert response.status_code in (404, 405)


def test_a_body_is_not_read_however_large_it_is_said_to_be() -> None:
    """By the real server, over a socket."""
    app = make_app(lambda: lambda: None, no_failure)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            address = listening.getsockname()
            assert request(address, b"POST /invoke HTTP/1.1", 10**11, b"x" * 10**6) in (b"201", b"503")
            while request(address, b"GET /health HTTP/1.1") != b"200":
                time.sleep(0.01)
            assert request(address, b"POST /invoke HTTP/1.1", 10**11, b"x" * 10**6) == b"201"
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


def request(address: tuple[str, int], line: bytes, length: int = 0, body: bytes = b"") -> bytes:
    """Send a request; the status of the answer."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(line + b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        with contextlib.suppress(ConnectionError):
            connection.sendall(body)
        return connection.recv(1000).split()[1]


def test_models_that_cannot_be_loaded_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    def load() -> Answer:
        raise OSError("weights/manifest.json: no such file")

    client = TestClient(make_app(load, failed.set))
    assert failed.wait(10)
    assert client.get("/health").status_code == 503
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "error: weights/manifest.json: no such file"
    ]
