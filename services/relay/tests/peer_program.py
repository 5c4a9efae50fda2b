"""A process that joins an allocation, for the tests: `peer_program.py SOCKET NONCE [MODE]`.

With nothing but the standard library, so that it starts quickly. Prints its client token when it joined and stays until
its standard input ends. Modes: `fork`: a child inherits the connection, prints its pid, and outlives this process;
`exec`: at the first line on standard input it becomes a new program with another nonce, without closing the
connection; `deaf`: subscribes to its grants and never reads them; `listen`: prints the subject of each message that
comes.
"""

import json
import os
import socket
import sys

GPU = "GPU-00000000-0000-0000-0000-000000000001"


def join(path: str, nonce: str) -> tuple[socket.socket, str, str]:
    """Joins as the library does (INFO, CONNECT, PING, PONG); the connection, the allocation and the client token."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    stream = connection.makefile("rb")
    info = json.loads(stream.readline().removeprefix(b"INFO "))
    connection.sendall(b'CONNECT {"verbose":false,"headers":true,"name":"%b"}\r\nPING\r\n' % nonce.encode())
    while (line := stream.readline()) != b"PONG\r\n":
        if not line or line.startswith(b"-ERR"):
            raise SystemExit(f"not let in: {line!r}")
    return connection, info["nvshare"]["allocation"], f"{info['nvshare']['pid']}-{nonce}"


def main() -> None:
    path, nonce, *mode = sys.argv[1:]
    connection, allocation, client = join(path, nonce)
    print(client, flush=True)
    if mode == ["fork"]:
        child = os.fork()
        if child == 0:
            sys.stdout.close()
            os.close(1)
            sys.stdin.read()
            os._exit(0)
        print(child, flush=True)
    if mode == ["exec"]:
        sys.stdin.readline()
        os.set_inheritable(connection.fileno(), True)
        os.execv(sys.executable, [sys.executable, "-IS", __file__, path, nonce[::-1]])
    if mode == ["deaf"] or mode == ["listen"]:
        subject = f"nvshare.v1.gpu.{GPU}.alloc.{allocation}.client.{client}.grant"
        connection.sendall(f"SUB {subject} 1\r\nPING\r\n".encode())
    if mode == ["listen"]:
        for line in connection.makefile("rb"):
            if line.startswith((b"MSG", b"PONG")):
                print(line.decode().split(" ")[1] if line.startswith(b"MSG") else "ready", flush=True)
    sys.stdin.read()


main()
