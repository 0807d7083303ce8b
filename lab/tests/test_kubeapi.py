"""The lab's calls to an API server: one that is only just starting is asked again when it says so."""

import http.server
import ssl
import threading
from http import HTTPStatus

import pytest
from clustermesh_lab.kubeapi import Api, ApiError
from clustermesh_lab.pki import Authority


class Server(http.server.ThreadingHTTPServer):
    """Answers with what ``answers`` holds, in order; the last one over and over."""

    def __init__(self, authority):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("server", "server", names=["127.0.0.1"]))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked = 0
        self.answers = [HTTPStatus.OK]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = self.server.answers[min(self.server.asked, len(self.server.answers) - 1)]
        self.server.asked += 1
        self.send_response(status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(b'{"message": "storage is (re)initializing"}')

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    authority = Authority(tmp_path / "pki", "east")
    server = Server(authority)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    certificate, key = authority.issue("admin", "admin")
    url = f"https://127.0.0.1:{server.server_address[1]}"
    yield server, Api(url, authority.certificate_file, certificate, key, timeout_s=2.5)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_says_when_to_ask_again_is_asked_again(served):
    server, api = served
    server.answers = [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK]
    assert api.get("/apis")["message"]
    assert server.asked == 2


@pytest.mark.parametrize(
    ("status", "times"), [(HTTPStatus.TOO_MANY_REQUESTS, 3), (HTTPStatus.FORBIDDEN, 1), (HTTPStatus.NOT_FOUND, 1)]
)
def test_a_refusal_is_told_and_asking_again_has_an_end(served, status, times):
    server, api = served
    server.answers = [status]
    with pytest.raises(ApiError, match=rf"{status.value} to /apis: storage is"):
        api.get("/apis")
    assert server.asked == times
