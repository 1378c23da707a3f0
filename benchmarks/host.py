"""Training inside the WebUI's process against a second copy of its model through diffusers (Linux).

SD_WEBUI_DIR=… python benchmarks/host.py --python a-venv/bin/python

The Python is one that has all that the WebUI has, and diffusers and peft (this was measured with 0.31.0,
which is what the closest peer installs, and 0.7.1). Each row is a WebUI of its own, with the same model and
picture.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = [
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--no-half", "--use-cpu", "all",
    "--disable-nan-check", "--no-download-sd-model", "--nowebui", "--port",
]  # fmt: skip
PROBE = """
import os, sys, threading, time, traceback

from modules import script_callbacks, sd_models

def measure():
    while not sd_models.model_data.was_loaded_at_least_once or sd_models.model_data.sd_model is None:
        time.sleep(0.2)
    time.sleep(2)
    try:
        sys.path[:0] = [os.environ["PROBE_ROOT"], os.path.join(os.environ["PROBE_ROOT"], "benchmarks")]
        import host
        host.inside()
    except BaseException:
        traceback.print_exc()
    os._exit(0)

script_callbacks.on_app_started(lambda demo, app: threading.Thread(target=measure).start())
"""
CONFIG = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    {{linear_start: 0.00085, linear_end: 0.012, timesteps: 1000, channels: 4, conditioning_key: crossattn,
     scale_factor: 0.18215, use_ema: false,
     unet_config: {{target: ldm.modules.diffusionmodules.openaimodel.UNetModel, params:
       {{image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320,
        attention_resolutions: [4, 2, 1], num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_heads: 8,
        use_spatial_transformer: true, transformer_depth: 1, context_dim: 768, use_checkpoint: false,
        legacy: false}}}},
     first_stage_config: {{target: ldm.models.autoencoder.AutoencoderKL, params:
       {{embed_dim: 4, ddconfig: {{double_z: true, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3,
         ch: 128, ch_mult: [1, 2, 4, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}},
        lossconfig: {{target: torch.nn.Identity}}}}}},
     cond_stage_config: {{target: ldm.modules.encoders.modules.FrozenCLIPEmbedder, params:
       {{version: {clip}}}}}}}
"""
CLIP = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408,
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77, "projection_dim": 768, "eos_token_id": 2, "bos_token_id": 0,
    "pad_token_id": 1,
}  # fmt: skip
CAPTION = "a photo of a cat on a chair"


class Watch:
    """Seconds and megabytes since Start: what the process holds by itself, and with pages of files."""

    def __init__(self) -> None:
        from measure import forget_peak, megabytes

        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading left to the allocator is not in use
        forget_peak()
        self.megabytes, self.idle = megabytes, {"own": megabytes("RssAnon"), "all": megabytes("VmRSS")}
        self.most, self.done, self.marks = self.idle["own"], False, {}
        threading.Thread(target=self._look, daemon=True).start()
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def _look(self) -> None:
        while not self.done:
            self.most = max(self.most, self.megabytes("RssAnon"))
            time.sleep(0.01)

    def mark(self, name: str) -> None:
        self.marks[name] = {
            "wall": time.perf_counter() - self.began, "cpu": time.process_time() - self.cpu,
            "own": self.most - self.idle["own"], "all": self.megabytes() - self.idle["all"],
        }  # fmt: skip


def inside() -> None:
    """In the WebUI's process, with its model loaded."""
    import torch

    told = json.loads(os.environ["PROBE_TOLD"])
    torch.set_num_threads(told["threads"])
    watch = Watch()
    {"ours": ours, "peer": peer}[told["who"].split()[0]](watch, told)
    watch.done = True
    pathlib.Path(told["answer"]).write_text(json.dumps({"idle": watch.idle, "marks": watch.marks}))


def ours(watch: Watch, told: dict) -> None:
    """A whole session, from Start on."""
    from lora_train.hosts.webui.host import WebuiHost
    from lora_train.job import assemble
    from lora_train.run.session import run
    from lora_train.train.events import Watcher

    class Marks(Watcher):
        def started(self, progress: object) -> None:
            watch.mark("ready")

        def stepped(self, progress: object) -> None:
            watch.mark(f"step {progress.step}")

    values = {
        "data.train_data_dir": told["pictures"], "data.resolution": told["side"], "network.dim": 4,
        "network.alpha": 1.0, "network.train_unet_only": True, "training.seed": 1,
        "training.max_train_steps": told["steps"], "place.cache_latents": True,
        "place.gradient_checkpointing": told["checkpointing"], "output.output_dir": told["output"],
    }  # fmt: skip
    with contextlib.suppress(ImportError):
        from modules import shared

        values["model.pretrained_model_name_or_path"] = shared.sd_model.sd_checkpoint_info.filename
    run(*assemble(values), WebuiHost(), watchers=[Marks()])


def peer(watch: Watch, told: dict) -> None:
    """As hako-mikan/sd-webui-traintrain does at 7b58929: the WebUI loads the checkpoint again and unloads it,
    diffusers loads it a second time. "freed": the WebUI's copy is given up; on a CPU unloading keeps it."""
    import models
    import torch
    from modules import sd_models, shared

    info = shared.sd_model.sd_checkpoint_info
    if "reload" in told["who"]:
        sd_models.load_model(info)
        watch.mark("loaded again")
    sd_models.unload_model_weights()
    if "freed" in told["who"]:
        sd_models.send_model_to_trash(shared.sd_model)
    watch.mark("unloaded")
    pipe = _second(told["diffusers"], info.filename)
    watch.mark("second copy")
    with torch.no_grad():
        _picture(pipe, told)
    watch.mark("latents")
    unet = pipe.unet.eval()
    del pipe
    step = models.peers(unet, models.Case("no", told["checkpointing"], side=told["side"] // 8))
    watch.mark("ready")
    for number in range(1, told["steps"] + 1):
        step()
        watch.mark(f"step {number}")


def _second(folder: str, filename: str) -> object:
    from diffusers import StableDiffusionPipeline

    offline = {"local_files_only": True, "safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline.from_single_file(filename, config=folder, **offline)


def _picture(pipe: object, told: dict) -> None:
    """Its latents and its caption, as they are cached before the first step."""
    import numpy as np
    import torch
    from PIL import Image

    for path in pathlib.Path(told["pictures"]).rglob("*.png"):
        pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
        pipe.vae.encode(pixels[None]).latent_dist.sample()
    tokens = pipe.tokenizer([CAPTION], padding="max_length", max_length=77, return_tensors="pt").input_ids
    pipe.text_encoder(tokens)


def prepared(folder: pathlib.Path, side: int, config: str) -> None:
    """A data folder for the WebUI, what diffusers would ask the hub for, and a picture."""
    from models import checkpoint
    from PIL import Image

    weights = folder / "data" / "models" / "Stable-diffusion"
    script = folder / "data" / "extensions" / "probe" / "scripts" / "probe.py"
    pictures = folder / "pictures" / "1_cat"
    for place in (weights, script.parent, pictures, folder / "clip"):
        place.mkdir(parents=True)
    script.write_text(PROBE)
    (weights / "full.safetensors").symlink_to(checkpoint())
    (weights / "full.yaml").write_text(CONFIG.format(clip=folder / "clip"))
    for path in (ROOT / "demo" / "checkpoint" / "demo_clip").iterdir():
        (folder / "clip" / path.name).write_bytes(path.read_bytes())
    (folder / "clip" / "config.json").write_text(json.dumps(CLIP))
    Image.effect_noise((side, side), 80).convert("RGB").save(pictures / "a.png")
    (pictures / "a.txt").write_text(CAPTION)
    words = [config, "-c", "import sys, host; host.described(*sys.argv[1:])", str(folder)]
    subprocess.run(words, check=True, cwd=ROOT / "benchmarks")


def described(folder: str) -> None:
    """The configs of Stable Diffusion 1.5, as its repository on the hub has them."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTokenizer

    there = pathlib.Path(folder, "diffusers")
    blocks = (128, 256, 512, 512)
    UNet2DConditionModel(cross_attention_dim=768, sample_size=64).save_config(there / "unet")
    AutoencoderKL(
        block_out_channels=blocks, down_block_types=["DownEncoderBlock2D"] * 4, sample_size=512,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4,
    ).save_config(there / "vae")  # fmt: skip
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_config(
        there / "scheduler")  # fmt: skip
    clip = pathlib.Path(folder, "clip")
    CLIPTokenizer(clip / "vocab.json", clip / "merges.txt").save_pretrained(there / "tokenizer")
    (there / "text_encoder").mkdir()
    (there / "text_encoder" / "config.json").write_text(json.dumps(CLIP))
    index = {
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False,
    }  # fmt: skip
    (there / "model_index.json").write_text(json.dumps(index))


@contextlib.contextmanager
def room() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def measured(folder: pathlib.Path, who: str, asked: argparse.Namespace, again: bool) -> dict:
    told = {
        "who": who, "threads": asked.threads, "steps": asked.steps, "side": asked.side,
        "checkpointing": again, "pictures": str(folder / "pictures"),
        "output": str(folder / "output" / who.replace(" ", "_")),
        "answer": str(folder / "answer.json"), "diffusers": str(folder / "diffusers"),
    }  # fmt: skip
    environ = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(asked.threads),
        "OMP_WAIT_POLICY": "PASSIVE", "PROBE_ROOT": str(ROOT), "PROBE_TOLD": json.dumps(told),
    }  # fmt: skip
    command = [asked.python, "launch.py", *FLAGS, str(asked.port), "--data-dir", str(folder / "data")]
    command += asked.flags.split()
    (folder / "answer.json").unlink(missing_ok=True)
    done = subprocess.run(command, cwd=asked.webui, env=environ, capture_output=True, text=True, check=False)
    if not (folder / "answer.json").is_file():
        sys.exit(f"{who}: the WebUI ended without an answer\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return json.loads((folder / "answer.json").read_text())


def told(who: str, answer: dict) -> str:
    """A line for every mark: seconds since Start, megabytes over the idle WebUI so far."""
    lines = [
        f"{who}: idle WebUI {answer['idle']['own']:.0f} MB ({answer['idle']['all']:.0f} with pages of files)"
    ]
    lines += [
        f"  {name:13} wall {m['wall']:6.1f} s, cpu {m['cpu']:6.1f} s, peak over idle {m['own']:6.0f} MB "
        f"({m['all']:.0f} with pages of files)"
        for name, m in answer["marks"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--webui", default=os.environ.get("SD_WEBUI_DIR"), help="the WebUI's folder")
    ask.add_argument("--python", default=sys.executable, help="has the WebUI's packages, diffusers and peft")
    ask.add_argument("--who", nargs="+", default=["ours", "peer reload", "peer", "peer freed"])
    ask.add_argument("--checkpointing", nargs="+", default=["no"], choices=["no", "yes"])
    ask.add_argument("--steps", type=int, default=2)
    ask.add_argument("--side", type=int, default=512, help="pixels")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--flags", default="", help="more of the WebUI's, as one word")
    ask.add_argument("--port", type=int, default=7898)
    asked = ask.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    with room() as folder:
        prepared(folder, asked.side, asked.python)
        for again in asked.checkpointing:
            for who in asked.who:
                print(
                    f"checkpointing {again}, {told(who, measured(folder, who, asked, again == 'yes'))}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
