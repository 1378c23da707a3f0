"""A tensor's bits, packed as their difference to another's.

Neighbouring floating-point numbers are neighbouring whole numbers where their bits are read so; differences
are small then, where a weight has moved a little. Their bytes are sorted by place, so that zeros stand
together, and packed by zlib with run lengths: of what was tried the smallest, and ten times as fast as its
usual way.
"""

from __future__ import annotations

import concurrent.futures
import zlib

import torch
from torch import Tensor

WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes -> whole numbers of so many
LEVEL, WINDOW, MEMORY = 6, 15, 9
APART, BESIDE = b"\0", b"\1"  # first byte: by itself, or beside the other tensor
RAW, PACKED = 0, 1  # of each plane
PIECE = 1 << 21  # numbers that are packed at once


def pack(value: Tensor, beside: Tensor | None) -> bytes:
    """Of a tensor, or of its difference to one of the same shape and dtype; made piece by piece, which takes
    little more memory than what comes of it."""
    numbers, others = _numbers(value), None if beside is None else _numbers(beside)
    wide = numbers.element_size()
    found = [(APART if beside is None else BESIDE) + bytes([wide])]
    with concurrent.futures.ThreadPoolExecutor(wide) as pool:  # zlib lets others run
        for begin in range(0, len(numbers), PIECE):
            piece = numbers[begin : begin + PIECE]
            if others is not None:
                moved = piece - others[begin : begin + PIECE]  # wraps around, and so does the way back
                piece = (moved << 1) ^ (moved >> (8 * wide - 1))  # signs last: small either way is small
            planes = piece.view(torch.uint8).reshape(-1, wide).t().contiguous()
            found += pool.map(_plane, planes)
    return b"".join(found)


def unpack(data: bytes, beside: Tensor | None, most: int) -> Tensor:
    """What was packed, flat, as whole numbers of its width.

    Args:
        beside: what it was packed beside; not asked for where it was packed by itself.
        most: numbers that it has at most; what holds more is damaged.

    Raises:
        ValueError: it is damaged, or `beside` is another.
    """
    if len(data) < 2 or data[:1] not in (APART, BESIDE) or data[1] not in WHOLE:
        raise ValueError("no packed tensor")
    wide, others = data[1], None if data[:1] == APART else _beside(beside, data[1])
    at, found, done = 2, [torch.empty(0, dtype=WHOLE[wide])], 0
    while at < len(data):
        planes = []
        for _ in range(wide):
            size = int.from_bytes(data[at + 1 : at + 9], "little")
            planes.append(_opened(data[at : at + 1], data[at + 9 : at + 9 + size], size, PIECE))
            at += 9 + size
        if len({len(plane) for plane in planes}) != 1 or at > len(data):
            raise ValueError("no packed tensor")
        piece = torch.stack(planes, 1).reshape(-1).view(WHOLE[wide])
        if others is not None:
            if done + len(piece) > len(others):
                raise ValueError("packed beside another tensor")
            halves = (piece >> 1) & ((1 << (8 * wide - 1)) - 1)  # a shift that brings in zeros
            piece = (halves ^ -(piece & 1)) + others[done : done + len(piece)]
        found.append(piece)
        done += len(piece)
        if done > most:
            raise ValueError("no packed tensor")
    if others is not None and done != len(others):
        raise ValueError("packed beside another tensor")
    return torch.cat(found)


def _beside(beside: Tensor | None, wide: int) -> Tensor:
    if beside is None or beside.element_size() != wide:
        raise ValueError("packed beside another tensor")
    return _numbers(beside)


def _opened(kind: bytes, piece: bytes, size: int, most: int) -> Tensor:
    """A plane of at most so many bytes."""
    if kind == bytes([PACKED]):
        opener = zlib.decompressobj()
        try:
            piece, size = opener.decompress(piece, most + 1), None
        except zlib.error as e:
            raise ValueError("no packed tensor") from e
        if not opener.eof:
            raise ValueError("no packed tensor")
    if kind not in (bytes([RAW]), bytes([PACKED])) or size not in (None, len(piece)) or len(piece) > most:
        raise ValueError("no packed tensor")
    return torch.frombuffer(bytearray(piece), dtype=torch.uint8) if piece else torch.empty(0).byte()


def _numbers(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(WHOLE[value.element_size()])


def _plane(plane: Tensor) -> bytes:
    data = memoryview(plane.numpy())
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY, zlib.Z_RLE)
    packed = packer.compress(data) + packer.flush()
    kind, data = (PACKED, packed) if len(packed) < len(data) else (RAW, bytes(data))
    return bytes([kind]) + len(data).to_bytes(8, "little") + data
