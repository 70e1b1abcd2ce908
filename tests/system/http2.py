"""Frames of HTTP/2 and calls of gRPC as bytes, for clients that keep to no rules."""

import select
import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def headers(*pairs):
    """A header block of literals that no table keeps; names and values of up to 126 bytes."""
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in pairs)


def call(method, *more):
    return headers((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/conclave.v1.InferenceService/" + method),
                   (b":authority", b"localhost"), (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more)


def message(payload, size=None):
    """With its prefix; `size` above the payload's: the rest never comes."""
    return b"\0" + (len(payload) if size is None else size).to_bytes(4, "big") + payload


def frames(text):
    """(kind, flags, stream, payload) of each that is whole."""
    found = []
    while len(text) >= 9 and len(text) >= 9 + int.from_bytes(text[:3], "big"):
        size = int.from_bytes(text[:3], "big")
        found.append((text[3], text[4], int.from_bytes(text[5:9], "big"), text[9:9 + size]))
        text = text[9 + size:]
    return found


def ends_stream(text):
    """Whether the trailers of a call have come."""
    return any(kind == HEADERS and flags & END_STREAM for kind, flags, _, _ in frames(text))


GREETING = PREFACE + frame(SETTINGS, 0, 0)


def answers(address, data):
    """What a server says to them, after the greeting, until it ends the connection or has nothing to say for three
    seconds: (kind, flags, stream, payload) of each frame. Reads while it sends, as a server may end it before."""
    host, port = address.rsplit(":", 1)
    left, text = GREETING + data, b""
    with socket.create_connection((host, int(port)), timeout=3) as connection:
        connection.setblocking(False)
        try:
            while True:
                readable, writable, _ = select.select([connection], [connection] if left else [], [], 3)
                if readable:
                    part = connection.recv(65536)
                    text += part
                    if not part:
                        break
                elif writable:
                    left = left[connection.send(left):]
                else:
                    break
        except ConnectionError:
            pass
    return frames(text)
