"""Stands in for the Data API of a database: finds one document, if the token is live in the simulated Astra.

Prints its address, then a line for each request."""

import http.server
import json

from live import is_live


class DataApi(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        command = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token = self.headers["Token"] or ""
        client_id = token.split(":")[1] if token.count(":") == 2 else "without a token"
        if is_live(token):
            print(f"answered {client_id}", flush=True)
            self._answer(200, {"data": {"document": {"_id": command["findOne"]["filter"]["_id"]}}})
        else:
            print(f"refused {client_id}", flush=True)
            self._answer(401, {"errors": [{"message": "UNAUTHENTICATED: Invalid token", "errorCode": "UNAUTHENTICATED_REQUEST"}]})

    def _answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), DataApi)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
