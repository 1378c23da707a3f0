"""Forge and its kin as a host: the folder that training on their backend will fill."""
