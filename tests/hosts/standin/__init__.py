"""A stand-in for the WebUI: its `modules` and its Lora extension, as far as a trainer touches them.

The model is real: the UNet, autoencoder and LatentDiffusion of Stability AI's `ldm` (the package
stable-diffusion-sdkit), and Hugging Face's CLIP, on the demo checkpoint. What the WebUI does to it is
written anew, from what was seen of v1.10.1: wrapped text encoder, patched attention, LoRAs that stay merged.
"""
