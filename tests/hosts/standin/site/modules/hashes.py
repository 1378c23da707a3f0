"""Hashes of files."""

import hashlib
import pathlib


def sha256(filename, title=None, use_addnet_hash=False):
    return hashlib.sha256(pathlib.Path(filename).read_bytes()).hexdigest()


sha256_from_cache = sha256
