"""Picture files without what they say of themselves; the pixels stay as they are encoded."""

from __future__ import annotations

import struct

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
WORDS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME")  # of a PNG
ALONE = (0x01, *range(0xD0, 0xD8))  # markers of a JPEG that nothing belongs to
SCAN, LAST, COMMENT = 0xDA, 0xD9, 0xFE
COLOURS = (0xE0, 0xEE)  # of a JPEG: JFIF's head and Adobe's, which say how colours are meant
PROFILE = b"ICC_PROFILE\0"
FLAGS = 0x08 | 0x04  # of a WebP's head: there is EXIF, there is XMP


def stripped(content: bytes) -> bytes | None:
    """The file without notes, dates, places and small pictures; its colour profile stays. None: another kind
    of file, or a damaged one."""
    try:
        if content.startswith(PNG):
            return _png(content)
        if content.startswith(JPEG):
            return _jpeg(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp(content)
    except (struct.error, IndexError):
        pass
    return None


def _png(content: bytes) -> bytes:
    kept, at = [PNG], len(PNG)
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind not in WORDS:
            kept.append(content[at : at + length + 12])
        at += length + 12
        if kind == b"IEND":
            break
    return b"".join(kept)


def _jpeg(content: bytes) -> bytes | None:
    kept, at = [JPEG], 2
    while True:
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # may stand before a marker any number of times
            at += 1
            continue
        if marker == SCAN:  # what follows are the pixels; behind them there may be other pictures
            end = content.find(b"\xff\xd9", at)
            return b"".join([*kept, content[at : len(content) if end < 0 else _end(content, at)]])
        length = 0 if marker in ALONE else struct.unpack_from(">H", content, at + 2)[0]
        piece = content[at : at + 2 + length]
        if not _note(marker, piece):
            kept.append(piece)
        at += 2 + length


def _note(marker: int, piece: bytes) -> bool:
    """Whether a part of a JPEG is nothing that its pixels need."""
    if marker == COMMENT:
        return True
    return 0xE0 <= marker <= 0xEF and marker not in COLOURS and not piece[4:].startswith(PROFILE)


def _end(content: bytes, at: int) -> int:
    """Behind the marker that ends the pixels. A progressive file has several scans, with tables between."""
    while True:
        at = content.index(b"\xff", at + 2)
        marker = content[at + 1]
        if marker == LAST:
            return at + 2
        if marker in (0x00, 0xFF) or marker in ALONE:  # 0: a byte of the pixels
            at -= marker == 0xFF
            continue
        at += struct.unpack_from(">H", content, at + 2)[0]


def _webp(content: bytes) -> bytes:
    kept, at = [], 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        piece = content[at : at + 8 + length + length % 2]
        if kind == b"VP8X":
            piece = piece[:8] + bytes([piece[8] & ~FLAGS]) + piece[9:]
        if kind not in (b"EXIF", b"XMP "):
            kept.append(piece)
        at += len(piece)
    inner = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner
