"""What lies in a folder, to be held against what lay there before."""


def content(folder):
    """{name: bytes} of the files right in it."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
