#!/usr/bin/env python3
"""A way to a real NBD server by which some requests do not come through.
killing_proxy.py SOCKET SERVER FROM TO [hold]: passes everything on between clients of SOCKET and the server at SERVER, but for a
read that begins in [FROM, TO): that ends the connection; with `hold` it gets no answer, and "held" is said."""
import socket
import struct
import sys
import threading

REQUEST, MAGIC, READ = struct.Struct(">IHHQQI"), 0x25609513, 0


def bad(message, begin, end):
    """Of what a client sent at once: libnbd sends each request by itself, or several whole."""
    if len(message) % REQUEST.size:
        return False
    for magic, _, kind, _, offset, _ in REQUEST.iter_unpack(message):
        if magic == MAGIC and kind == READ and begin <= offset < end:
            return True
    return False


def pass_on(come, go, stop):
    try:
        while message := come.recv(1 << 20):
            if stop(message):
                if not HOLD:
                    break
                print("held", flush=True)
                continue
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
        for come, go, stop in ((client, other, lambda m: bad(m, begin, end)), (other, client, lambda m: False)):
            threading.Thread(target=pass_on, args=(come, go, stop), daemon=True).start()


HOLD = sys.argv[5:] == ["hold"]
main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
