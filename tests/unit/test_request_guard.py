"""Test the guard of all requests of the SDKs, with a server that answers badly."""

from __future__ import annotations

import gzip
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from template_package import request_guard

SILENCE = 0.2  # seconds, in place of a minute
BOMB = gzip.compress(bytes(30_000_000))


class Handler(BaseHTTPRequestHandler):
    """Answers each path in its own bad way."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, bytes]] = []  # noqa: RUF012 (shared by all requests)

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        token = self.headers.get("Authorization", "")
        self.seen.append((self.path, token, self.rfile.read(length)))
        match self.path:
            case "/stall":
                time.sleep(4 * SILENCE)
            case "/trickle":
                self.begin(1000)
                for _ in range(40):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(SILENCE / 5)
            case "/huge":
                self.begin(3000)
                self.wfile.write(b"x" * 3000)
            case "/endless":
                self.begin(10**12)
                with suppress(OSError):  # The guard closes the connection.
                    while True:
                        self.wfile.write(b"x" * 100_000)
            case "/bomb":
                self.begin(len(BOMB), 200, **{"Content-Encoding": "gzip"})
                with suppress(OSError):
                    self.wfile.write(BOMB)
            case "/cut":
                self.begin(1000)
                self.wfile.write(b"x" * 500)
                self.close_connection = True
            case "/redirect":
                self.begin(0, 307, Location="https://elsewhere.example/token")
            case "/busy":
                self.begin(0, 429, **{"Retry-After": "3600"})
            case "/broken":
                self.begin(0, 500)
            case _:
                self.begin(2)
                self.wfile.write(b"{}")

    do_POST = do_GET
    do_PUT = do_GET

    def begin(self, length: int, status: int = 200, **headers: str) -> None:
        """Send the status and the headers of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the server. The guard has lower limits than usual."""
    monkeypatch.setattr(request_guard, "LONGEST_SILENCE", SILENCE)
    monkeypatch.setattr(request_guard, "LARGEST_RESPONSE", 2000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with request_guard.guard_requests():
        yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_guarded_request_returns_what_the_server_has_sent(address: str) -> None:
    reply = requests.get(f"{address}/good")
    assert (reply.status_code, reply.json(), reply.content) == (200, {}, b"{}")
    with requests.get(f"{address}/good", stream=True) as file:
        assert b"".join(file.iter_content(1)) == b"{}"


def test_streamed_file_may_be_large(address: str) -> None:
    with requests.get(f"{address}/huge", stream=True) as file:
        assert len(b"".join(file.iter_content(100))) == 3000


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("trickle", "A response from 127.0.0.1 arrives too slowly."),
        ("huge", "A response from 127.0.0.1 is larger than"),
        ("redirect", "127.0.0.1 redirects to elsewhere.example, but the login"),
        ("busy", "127.0.0.1 is busy and asks for a wait of 3600 s."),
    ],
)  # fmt: skip
def test_guard_gives_up_a_bad_answer_and_names_the_host(
    address: str, path: str, text: str
) -> None:
    started = time.monotonic()
    with pytest.raises(request_guard.RequestFailed, match=text) as failure:
        requests.post(f"{address}/{path}", data=b"client_secret=1")
    assert time.monotonic() - started < 10 * SILENCE
    assert failure.value.request.url == f"{address}/{path}"
    assert len(Handler.seen) == 1


@pytest.mark.parametrize("path", ["endless", "bomb"])
def test_huge_answer_does_not_fill_the_memory(address: str, path: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(request_guard.RequestFailed, match="is larger than"):
            requests.get(f"{address}/{path}")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 5_000_000  # bytes, with those of the server in this process


def test_guard_gives_up_a_server_that_does_not_answer(address: str) -> None:
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(requests.Timeout):
            requests.get(f"{address}/stall")
    with pytest.raises(
        request_guard.RequestFailed, match="127.0.0.1 does not respond."
    ):
        requests.get(f"{address}/stall")
    assert time.monotonic() - started < 10 * SILENCE
    # The next file of a silent server is given up at once.
    with pytest.raises(
        request_guard.RequestFailed, match="127.0.0.1 does not respond."
    ):
        requests.get(f"{address}/another")
    assert requests.post(f"{address}/good").ok  # Another method is not concerned.


def test_server_that_only_fails_is_not_called_silent(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One failure is enough if no time is left, so a slow machine does not matter.
    monkeypatch.setattr(request_guard, "LONGEST_SILENCE", 20)
    assert requests.get(f"{address}/broken").status_code == 500
    monkeypatch.setattr(request_guard, "LONGEST_SILENCE", 0)
    with pytest.raises(request_guard.RequestFailed, match="the status 500") as failure:
        requests.get(f"{address}/broken")
    assert failure.value.response.status_code == 500
    assert request_guard.silent_host() == ""
    assert request_guard.newest_response_if_error().status_code == 500


def test_answer_that_is_cut_short_raises_an_error_that_the_sdk_retries(
    address: str,
) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/cut")


def test_password_of_netrc_does_not_replace_a_token(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    requests.get(f"{address}/good", headers={"Authorization": "Bearer token"})
    assert Handler.seen[-1][1] == "Bearer token"


def test_guard_restores_everything_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NETRC", "mine")
    send = requests.adapters.HTTPAdapter.send
    with request_guard.guard_requests():
        assert requests.adapters.HTTPAdapter.send is not send
    assert requests.adapters.HTTPAdapter.send is send
    assert request_guard.os.environ["NETRC"] == "mine"
