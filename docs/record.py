#!/usr/bin/env python3
"""Records a command as an asciinema cast: python3 docs/record.py [--at TEXT] CAST COMMAND...

The command runs in a new terminal. The cast has the real time of each line. The script masks the secret parts of tokens, even of
simulated tokens. With --at, it prints the time of the first line that contains the text, in milliseconds."""

import argparse
import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time

WIDTH, HEIGHT = 110, 32
SECRET = re.compile(r"(AstraCS:[A-Za-z0-9]{24}):[0-9a-f]{64}")


def record(command):
    """Returns one event for each line, and the exit code of the command."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = dict(os.environ, TERM="xterm-256color")
        environment.pop("NO_COLOR", None)
        os.execvpe(command[0], command, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    start, events, rest = time.monotonic(), [], b""
    while True:
        select.select([terminal], [], [])
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux returns an error here when the command has exited.
            chunk = b""
        if not chunk:
            break
        # Masks whole lines only: a token in two parts would stay unmasked.
        *lines, rest = (rest + chunk).split(b"\n")
        now = round(time.monotonic() - start, 3)
        events += [[now, "o", masked(line) + "\n"] for line in lines]
    if rest:
        events.append([round(time.monotonic() - start, 3), "o", masked(rest)])
    return events, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def masked(line):
    return SECRET.sub(r"\1:***", line.decode("utf-8"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--at")
    parser.add_argument("cast")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    events, code = record(arguments.command)
    if code:
        sys.exit(f"the command failed with {code}:\n" + "".join(event[2] for event in events))
    header = {"version": 2, "width": WIDTH, "height": HEIGHT, "title": "make demo", "idle_time_limit": 3}
    with open(arguments.cast, "w", encoding="utf-8") as cast:
        for line in [header, *events]:
            cast.write(json.dumps(line, ensure_ascii=False) + "\n")
    if arguments.at:
        print(next(round(event[0] * 1000) for event in events if arguments.at in event[2]))


if __name__ == "__main__":
    main()
