"""Trains LoRAs for Stable Diffusion: in a WebUI, or by itself."""
