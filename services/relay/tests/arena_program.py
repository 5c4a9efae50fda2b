"""A process on an allocation's arena socket, for the tests: `arena_program.py SOCKET [NONCE]`, one word and its numbers
a line on standard input.

With nothing but the standard library, so that it starts quickly. Words and what they answer:

    reserve BYTES            ERROR RESERVED FREE
    segment BYTES            ERROR RESERVED FREE ID     (maps it)
    give ID                  ERROR RESERVED FREE
    write ID BYTE            ok                         (all of it)
    read ID                  first and last byte, or: void
    drop ID                  ok                         (forgets it and tells nobody)
    again                    ok                         (connects anew and hands in what it has)
    exec                     the new program's greeting (its nonce is another one)
    fork                     PID                        (a child keeps everything, and outlives this process)
"""

import mmap
import os
import select
import socket
import struct
import sys
import time

KINDS = {"hello": 1, "reserve": 2, "segment": 3, "give": 4, "adopt": 5}


class Arena:
    def __init__(self, path: str, nonce: int) -> None:
        self.path = path
        self.nonce = nonce
        self.segments: dict[int, tuple[int, int, mmap.mmap]] = {}
        self.connect()

    def connect(self) -> None:
        deadline = time.monotonic() + 5
        while True:
            self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self.connection.connect(self.path)
                self.ask("hello", 1, self.nonce)
                return
            except (OSError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def ask(self, kind: str, value: int = 0, segment: int = 0, descriptor: int = -1) -> tuple[int, int, int, int]:
        packet = struct.pack("<IiQQQ", KINDS[kind], -1, value, segment, 0)
        if descriptor < 0:
            self.connection.send(packet)
        else:
            socket.send_fds(self.connection, [packet], [descriptor])
        packet, self.descriptors, _, _ = socket.recv_fds(self.connection, 64, 1)
        if len(packet) != 32:
            raise ConnectionError("the relay ended the connection")
        answered, error, reserved, free, segment = struct.unpack("<IIQQQ", packet)
        if answered != KINDS[kind]:
            raise ConnectionError("the answer is not to the question")
        return error, reserved, free, segment

    def segment(self, size: int) -> str:
        error, reserved, free, number = self.ask("segment", size)
        if error == 0:
            descriptor = self.descriptors[0]
            self.segments[number] = (size, descriptor, mmap.mmap(descriptor, size))
        return f"{error} {reserved} {free} {number}"

    def again(self) -> str:
        self.connection.close()
        self.connect()
        handed_in = {}
        for size, descriptor, mapped in self.segments.values():
            error, _, _, number = self.ask("adopt", size, descriptor=descriptor)
            if error:
                return f"refused {error}"
            handed_in[number] = (size, descriptor, mapped)
        self.segments = handed_in
        return "ok"

    def read(self, number: int) -> str:
        size, descriptor, mapped = self.segments[number]
        if os.fstat(descriptor).st_size == 0:
            return "void"
        return f"{mapped[0]} {mapped[size - 1]}"

    def obey(self, word: str, *numbers: int) -> str:
        if word in ("reserve", "give"):
            value, segment = (numbers[0], 0) if word == "reserve" else (0, numbers[0])
            return " ".join(map(str, self.ask(word, value, segment)[:3]))
        if word == "segment":
            return self.segment(*numbers)
        if word == "write":
            size, _, mapped = self.segments[numbers[0]]
            mapped[:] = bytes([numbers[1]]) * size
            return "ok"
        if word == "read":
            return self.read(*numbers)
        if word == "drop":
            _, descriptor, mapped = self.segments.pop(numbers[0])
            mapped.close()
            os.close(descriptor)
            return "ok"
        if word == "again":
            return self.again()
        if word == "exec":
            os.execv(sys.executable, [sys.executable, "-IS", __file__, self.path, str(self.nonce + 1)])
        if word == "fork":
            child = os.fork()
            if child == 0:
                os.close(1)
                select.select([sys.stdin], [], [])
                time.sleep(60)
            return str(child)
        raise SystemExit(f"no such word: {word}")


def main() -> None:
    arena = Arena(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7)
    print("hello", flush=True)
    for line in iter(sys.stdin.readline, ""):
        word, *numbers = line.split()
        print(arena.obey(word, *map(int, numbers)), flush=True)


main()
