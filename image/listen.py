"""Answers DNS queries on 127.0.0.1:53 (every name is 127.0.0.1) and waits for one connection to 127.0.0.1:PORT. Exits with 0
after the connection, and with 1 after ten seconds without one. Used by inside.sh."""

import socket
import sys
import threading

A = 1


def answers(server):
    while True:
        query, client = server.recvfrom(4096)
        end = query.index(0, 12) + 5
        question = query[12:end]
        known = int.from_bytes(question[-4:-2], "big") == A
        header = query[:2] + b"\x81\x80\x00\x01" + (b"\x00\x01" if known else b"\x00\x00") + bytes(4)
        # The name of the question, type A, class IN, 60 seconds, four bytes.
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton("127.0.0.1") if known else b""
        server.sendto(header + question + record, client)


dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("127.0.0.1", 53))
threading.Thread(target=answers, args=(dns,), daemon=True).start()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.settimeout(10)
try:
    listener.accept()
except TimeoutError:
    sys.exit(1)
