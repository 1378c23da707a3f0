"""Trains LoRAs for Stable Diffusion: in a WebUI, or by itself."""

__version__ = "0.1.0"
