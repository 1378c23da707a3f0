"""Loads models, and lends them, without the WebUI: on diffusers and transformers."""
