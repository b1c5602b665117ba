"""Stands in for a database: a node of the native protocol, version 4, for one table of one keyspace.

A client logs in with SASL PLAIN: the user is `token`, and the password is a token that is live in the simulated Astra. The node
checks the token again at each query. So a session whose token is deleted fails at its next query, which a real database may
delay. Prints its address, then a line for each login and each query."""

import socketserver
import struct
import uuid

from live import is_live

ERROR, STARTUP, READY, AUTHENTICATE, OPTIONS, SUPPORTED = 0, 1, 2, 3, 5, 6
QUERY, RESULT, REGISTER, AUTH_RESPONSE, AUTH_SUCCESS = 7, 8, 11, 15, 16
VARCHAR, UUID, INET, SET = 13, 12, 16, 34
BAD_CREDENTIALS, UNAUTHORIZED, INVALID = 0x0100, 0x2100, 0x2200


def short(text):
    return struct.pack(">H", len(text.encode())) + text.encode()


def value(data):
    return struct.pack(">i", len(data)) + data


ADDRESS = value(bytes([127, 0, 0, 1]))
NAME = value(b"stand-in")
TOKENS = value(struct.pack(">i", 1) + value(b"0"))

# Name, type and value of each column that the drivers read.
LOCAL = [
    ("key", VARCHAR, value(b"local")),
    ("cluster_name", VARCHAR, NAME),
    ("data_center", VARCHAR, NAME),
    ("rack", VARCHAR, NAME),
    ("partitioner", VARCHAR, value(b"org.apache.cassandra.dht.Murmur3Partitioner")),
    ("release_version", VARCHAR, value(b"4.0.0")),
    ("host_id", UUID, value(uuid.UUID(int=1).bytes)),
    ("schema_version", UUID, value(uuid.UUID(int=2).bytes)),
    ("rpc_address", INET, ADDRESS),
    ("listen_address", INET, ADDRESS),
    ("broadcast_address", INET, ADDRESS),
    ("tokens", SET, TOKENS),
]


SUPPORTED_OPTIONS = struct.pack(">H", 2) + short("CQL_VERSION") + struct.pack(">H", 1) + short("3.4.5")
SUPPORTED_OPTIONS += short("COMPRESSION") + struct.pack(">H", 0)


def rows(table, columns, rows):
    """The answer to a query: kind `rows`, with one specification for the whole table."""
    body = struct.pack(">iii", 2, 1, len(columns)) + short("system") + short(table)
    for name, kind, _ in columns:
        body += short(name) + struct.pack(">H", kind) + (struct.pack(">H", VARCHAR) if kind == SET else b"")
    return body + struct.pack(">i", rows) + b"".join(data for _, _, data in columns) * rows


def answer(query):
    if "system.local" in query:
        chosen = [name.strip() for name in query.split("FROM")[0].removeprefix("SELECT").split(",")]
        return rows("local", LOCAL if chosen == ["*"] else [column for column in LOCAL if column[0] in chosen], 1)
    if "system.peers_v2" in query:
        return None
    # The node has no peers and no tables: the other system tables are empty.
    return rows("peers", [("peer", INET, ADDRESS), *LOCAL[2:]], 0)


class Node(socketserver.StreamRequestHandler):
    token = ""

    def handle(self):
        while header := self.rfile.read(9):
            version, _, stream, opcode, length = struct.unpack(">BBhBi", header)
            body = self.rfile.read(length)
            if version != 4:
                self._send(stream, ERROR, struct.pack(">i", 0x000A) + short("invalid or unsupported protocol version: use 4"))
                return
            self._send(stream, *self._reply(opcode, body))

    def _send(self, stream, opcode, body):
        self.wfile.write(struct.pack(">BBhBi", 0x84, 0, stream, opcode, len(body)) + body)

    def _reply(self, opcode, body):
        if opcode == OPTIONS:
            return SUPPORTED, SUPPORTED_OPTIONS
        if opcode == STARTUP:
            return AUTHENTICATE, short("org.apache.cassandra.auth.PasswordAuthenticator")
        if opcode == AUTH_RESPONSE:
            return self._log_in(body[4:])
        if not is_live(self.token):
            self._tell("refused a query of")
            return ERROR, struct.pack(">i", UNAUTHORIZED) + short("the token is not live")
        if opcode == REGISTER:
            return READY, b""
        if opcode == QUERY:
            query = body[4 : 4 + struct.unpack(">i", body[:4])[0]].decode()
            if result := answer(query):
                self._tell("answered")
                return RESULT, result
            return ERROR, struct.pack(">i", INVALID) + short("no such table")
        return ERROR, struct.pack(">i", 0x000A) + short("no such message")

    def _log_in(self, text):
        _, user, self.token = text.decode().split("\0")
        if user == "token" and is_live(self.token):
            self._tell("logged in")
            return AUTH_SUCCESS, struct.pack(">i", -1)
        self._tell("refused the login of")
        return ERROR, struct.pack(">i", BAD_CREDENTIALS) + short("Provided username and/or password are incorrect")

    def _tell(self, event):
        client_id = self.token.split(":")[1] if self.token.count(":") == 2 else "a caller without a token"
        print(f"{event} {client_id}", flush=True)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


server = Server(("127.0.0.1", 0), Node)
print(f"127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
