"""Frames of HTTP/2 and calls of gRPC as bytes, for clients that keep to no rules."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
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


GREETING = PREFACE + frame(SETTINGS, 0, 0)
