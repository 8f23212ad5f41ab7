"""What engines that tests script answer with: every inference and every beat is well, in two bytes."""

import http.server


class Answer(http.server.BaseHTTPRequestHandler):
    """For a server on a unix socket, where callers have no address."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def address_string(self) -> str:
        return ""

    def log_message(self, *args: object) -> None:
        pass
