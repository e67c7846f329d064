"""An independent computation of MRTD, from Intel's documents alone. Prints one JSON document on stdout.

Without arguments: of a firmware that it makes. With the path of a TDVF: of that file.
"""
import hashlib
import json
import struct
import sys
import uuid


def sections(image):
    """Follows the table of GUIDs backwards from 32 bytes before the end."""
    end = len(image) - 32
    length = struct.unpack_from("<H", image, end - 18)[0]
    at, start = end - 18, end - length
    while at > start:
        size = struct.unpack_from("<H", image, at - 18)[0]
        if uuid.UUID(bytes_le=bytes(image[at - 16:at])) == uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2"):
            offset = len(image) - struct.unpack_from("<I", image, at - size)[0]
            magic, _, version, count = struct.unpack_from("<4sIII", image, offset)
            assert (magic, version) == (b"TDVF", 1)
            return [struct.unpack_from("<IIQQII", image, offset + 16 + 32 * n) for n in range(count)]
        at -= size
    raise SystemExit("no tdx metadata")


def mrtd(image, by_page):
    digest = hashlib.sha384()

    def add(gpa):
        digest.update(b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", gpa) + bytes(104))

    def extend(gpa, page):
        for chunk in range(0, 4096, 256):
            digest.update(b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", gpa + chunk) + bytes(104))
            digest.update(page[chunk:chunk + 256])

    for offset, raw, gpa, size, _, attributes in sections(image):
        if attributes & 2:
            continue
        memory = bytes(image[offset:offset + raw]).ljust(size, b"\0")
        pages = range(0, size, 4096)
        if by_page:
            for page in pages:
                add(gpa + page)
                if attributes & 1:
                    extend(gpa + page, memory[page:page + 4096])
        else:
            for page in pages:
                add(gpa + page)
            for page in pages if attributes & 1 else ():
                extend(gpa + page, memory[page:page + 4096])
    return digest.hexdigest()


def firmware():
    image = bytearray((n * 7 + n // 251) % 256 for n in range(5 * 4096))
    table = [
        (0, 8192, 0xFFC00000, 8192, 0, 1),  # boot firmware volume: measured
        (8192, 4096, 0xFFC84000, 8192, 1, 0),  # configuration volume: added, not measured; zeros behind
        (0, 0, 0x809000, 4096, 2, 0),  # hand-off block: added
        (8192, 300, 0x80A000, 4096, 3, 1),  # measured, most of it zeros
        (0, 0, 0x1000000, 1 << 20, 4, 2),  # added while the TD runs
    ]
    descriptor = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(table), 1, len(table))
    descriptor += b"".join(struct.pack("<IIQQII", *section) for section in table)
    image[4 * 4096:4 * 4096 + len(descriptor)] = descriptor
    entry = struct.pack("<I", 4096) + struct.pack("<H", 22) + uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
    footer = struct.pack("<H", len(entry) + 18) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    end = len(image) - 32
    image[end - len(entry) - 18:end] = entry + footer
    return bytes(image)


image = open(sys.argv[1], "rb").read() if len(sys.argv) > 1 else firmware()
print(json.dumps({
    "image": image.hex() if len(sys.argv) == 1 else None,
    "page_by_page": mrtd(image, True),
    "section_by_section": mrtd(image, False),
}))
