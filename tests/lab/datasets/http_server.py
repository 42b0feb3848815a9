"""A real HTTP server on 127.0.0.1 that can break a transfer, refuse ranges, or send the wrong bytes."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What the server has (path -> bytes), how it misbehaves, and what it was asked."""

    def __init__(self):
        self.files = {}
        self.break_after = []  # bytes to send before each of the next answers breaks off
        self.knows_ranges = True
        self.answers_wrong_range = False
        self.requests = []  # (path, Range header or None)
        self.url = ""


@contextmanager
def serving():
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, asked = self.path.lstrip("/"), self.headers.get("Range")
            site.requests.append((path, asked))
            content = site.files.get(path)
            if content is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and site.knows_ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            body = content[start:]
            self.send_response(206 if asked and site.knows_ranges else 200)
            if asked and site.knows_ranges:
                told = start + 1 if site.answers_wrong_range else start
                self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.break_after:
                body = body[: site.break_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
