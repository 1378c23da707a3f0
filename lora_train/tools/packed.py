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


def pack(value: Tensor, beside: Tensor | None) -> bytes:
    """Of a tensor, or of its difference to one of the same shape and dtype."""
    numbers = _numbers(value)
    if beside is not None:
        moved = numbers - _numbers(beside)  # wraps around, and so does the way back
        bits = 8 * numbers.element_size()
        numbers = (moved << 1) ^ (moved >> (bits - 1))  # signs last: small either way is small
    planes = numbers.view(torch.uint8).reshape(-1, numbers.element_size()).t().contiguous()
    with concurrent.futures.ThreadPoolExecutor(len(planes)) as pool:  # zlib lets others run
        packed = [*pool.map(_plane, planes)]
    return (APART if beside is None else BESIDE) + bytes([len(planes)]) + b"".join(packed)


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
    at, planes = 2, []
    for _ in range(data[1]):
        size = int.from_bytes(data[at + 1 : at + 9], "little")
        planes.append(_opened(data[at : at + 1], data[at + 9 : at + 9 + size], size, most))
        at += 9 + size
    if len({len(plane) for plane in planes}) != 1 or at != len(data):
        raise ValueError("no packed tensor")
    numbers = torch.stack(planes, 1).reshape(-1).view(WHOLE[data[1]])
    if data[:1] == APART:
        return numbers
    if beside is None or _numbers(beside).shape != numbers.shape or beside.element_size() != data[1]:
        raise ValueError("packed beside another tensor")
    bits = 8 * numbers.element_size()
    halves = (numbers >> 1) & ((1 << (bits - 1)) - 1)  # a shift that brings in zeros
    return (halves ^ -(numbers & 1)) + _numbers(beside)


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
