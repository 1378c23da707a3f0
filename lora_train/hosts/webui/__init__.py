"""The WebUI as a host: the only files that import its `modules`."""
