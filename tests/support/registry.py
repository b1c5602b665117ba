#!/usr/bin/env python3
"""Serves OCI image layouts as a read-only registry on loopback: registry.py <repository>=<folder>...

Prints the port. Then prints one line for each request. Stops when standard input ends.
"""

import http.server
import json
import pathlib
import sys
import threading

LAYOUTS = {name: pathlib.Path(folder) for name, _, folder in (pair.partition("=") for pair in sys.argv[1:])}


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        content, kind = (b"{}", "application/json") if self.path == "/v2/" else self.find()
        self.send_response(404 if content is None else 200)
        content = content or b""
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def find(self):
        """Returns the content and the media type of a manifest or blob: /v2/<repository>/<manifests|blobs>/<reference>."""
        repository, kind, reference = self.path.removeprefix("/v2/").rsplit("/", 2)
        layout = LAYOUTS.get(repository)
        if layout is None:
            return None, None
        if not reference.startswith("sha256:"):
            entries = json.loads((layout / "index.json").read_bytes())["manifests"]
            tags = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}
            reference = tags.get(reference, "")
        blob = layout / "blobs" / reference.replace(":", "/")
        if not reference or not blob.is_file():
            return None, None
        content = blob.read_bytes()
        return content, json.loads(content)["mediaType"] if kind == "manifests" else "application/octet-stream"

    def log_request(self, code="-", size="-"):
        # A client tries TLS first. That request has no path.
        print(self.command, getattr(self, "path", None), int(code), flush=True)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
