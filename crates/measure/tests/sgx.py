"""An independent writer of SIGSTRUCT and SGXS, from Intel's SDM volume 3D alone. Prints one JSON document on stdout.

The RSA key is a test key: n = p * q with primes found from a seed, e = 3.
"""
import hashlib
import json
import random
import struct

rng = random.Random(20261126)


def prime(bits):
    while True:
        candidate = rng.getrandbits(bits) | (3 << (bits - 2)) | 1
        if candidate % 3 == 1 or any(candidate % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)):
            continue
        if all(miller_rabin(candidate, rng.randrange(2, candidate - 1)) for _ in range(12)):
            return candidate


def miller_rabin(n, base):
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    x = pow(base, d, n)
    if x in (1, n - 1):
        return True
    for _ in range(r - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False


P, Q = prime(1536), prime(1536)
N = P * Q
D = pow(3, -1, (P - 1) * (Q - 1))


def sigstruct(mrenclave, attributes, mask):
    body = bytearray(1808)
    body[0:16] = bytes.fromhex("06000000E10000000000010000000000")
    body[16:24] = struct.pack("<II", 0, 0x20261126)
    body[24:40] = bytes.fromhex("01010000600000006000000001000000")
    body[128:512] = N.to_bytes(384, "little")
    body[512:516] = struct.pack("<I", 3)
    body[904:908] = b"\xff" * 4
    body[912:928] = bytes(range(16))
    body[928:944] = attributes
    body[944:960] = mask
    body[960:992] = mrenclave
    body[1008:1024] = bytes(range(16, 32))
    body[1024:1028] = struct.pack("<HH", 7, 9)
    digest = hashlib.sha256(bytes(body[0:128] + body[900:1028])).digest()
    info = bytes.fromhex("3031300d060960864801650304020105000420")
    padded = b"\x00\x01" + b"\xff" * (384 - 3 - len(info) - 32) + b"\x00" + info + digest
    signature = pow(int.from_bytes(padded, "big"), D, N)
    body[516:900] = signature.to_bytes(384, "little")
    q1, rest = divmod(signature * signature, N)
    body[1040:1424] = q1.to_bytes(384, "little")
    body[1424:1808] = (rest * signature // N).to_bytes(384, "little")
    return bytes(body)


def enclave():
    """One measured page, one page that is added and not measured."""
    measured = hashlib.sha256()
    stream = b""
    for record, data, counts in [
        (b"ECREATE\0" + struct.pack("<IQ", 1, 8192) + bytes(44), b"", True),
        (b"EADD\0\0\0\0" + struct.pack("<QQ", 0, 0x203) + bytes(40), b"", True),
        *[(b"EEXTEND\0" + struct.pack("<Q", at) + bytes(48), bytes([at // 256]) * 256, True) for at in range(0, 4096, 256)],
        (b"EADD\0\0\0\0" + struct.pack("<QQ", 4096, 0x203) + bytes(40), b"", True),
        (b"UNMEASRD" + struct.pack("<Q", 4096) + bytes(48), b"\x55" * 256, False),
    ]:
        stream += record + data
        if counts:
            measured.update(record)
            for at in range(0, len(data), 64):
                measured.update(data[at:at + 64])
    return stream, measured.digest()


stream, mrenclave = enclave()
release = sigstruct(mrenclave, bytes([0x84]) + bytes(7) + bytes([3]) + bytes(7), bytes([0xFF]) * 16)
debug = sigstruct(mrenclave, bytes([0x04]) + bytes(7) + bytes([3]) + bytes(7), bytes([0xFD]) + bytes([0xFF]) * 15)
print(json.dumps({
    "sgxs": stream.hex(),
    "mrenclave": mrenclave.hex(),
    "mrsigner": hashlib.sha256(N.to_bytes(384, "little")).hexdigest(),
    "release": release.hex(),
    "debug": debug.hex(),
}))
