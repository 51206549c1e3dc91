#!/usr/bin/env python3
"""A way to a real NBD server by which some requests do not come through.
killing_proxy.py SOCKET SERVER FROM TO [hold [FILE]]: passes everything on between clients of SOCKET and the server at SERVER, but
for a read that begins in [FROM, TO): that ends the connection; with `hold` it gets no answer, and "held" is said; with FILE, if that
is there."""
import os
import socket
import struct
import sys
import threading

REQUEST, MAGIC, READ = struct.Struct(">IHHQQI"), 0x25609513, 0


def divide(message, begin, end):
    """What passes of that which a client sent at once, and the number of reads that do not. libnbd sends each request whole."""
    good, bad = b"", 0
    for at in range(0, len(message) if len(message) % REQUEST.size == 0 else 0, REQUEST.size):
        request = message[at:at + REQUEST.size]
        magic, _, kind, _, offset, _ = REQUEST.unpack(request)
        if magic != MAGIC:
            return message, 0
        if kind == READ and begin <= offset < end and (not WHILE or os.path.exists(WHILE[0])):
            bad += 1
        else:
            good += request
    return (good, bad) if bad else (message, 0)


def pass_on(come, go, look):
    try:
        while message := come.recv(1 << 20):
            message, bad = look(message)
            if bad and not HOLD:
                break
            for _ in range(bad):
                print("held", flush=True)
            go.sendall(message)
    except OSError:
        pass
    for end in (come, go):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main(path, server, begin, end):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    while True:
        client, _ = listening.accept()
        other = socket.socket(socket.AF_UNIX)
        other.connect(server)
        for come, go, look in ((client, other, lambda m: divide(m, begin, end)), (other, client, lambda m: (m, 0))):
            threading.Thread(target=pass_on, args=(come, go, look), daemon=True).start()


HOLD, WHILE = sys.argv[5:6] == ["hold"], sys.argv[6:]
main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
