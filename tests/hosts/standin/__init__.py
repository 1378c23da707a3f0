"""A stand-in for the WebUI: its `modules` and its Lora extension, as far as a trainer touches them.

The model is real: the UNet, autoencoder and LatentDiffusion of Stability AI's `ldm` (the package
stable-diffusion-sdkit), and Hugging Face's CLIP, on the demo checkpoint. What the WebUI does to it is
written anew, from what was seen of v1.10.1: wrapped text encoder, patched attention, LoRAs that stay merged.
So are OpenCLIP's tower and SDXL's classes, which load what `tests.hosts.tiny_checkpoints` writes. Pictures
that the WebUI itself drew lie in `real/`; those of the stand-in differ from them by 1/255 at most.
"""
