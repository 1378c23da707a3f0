"""The places we run in. Each folder is the only one that imports what its place is made of."""
