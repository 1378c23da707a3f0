"""Stands where the WebUI's own package stands; see tests/hosts/standin."""
