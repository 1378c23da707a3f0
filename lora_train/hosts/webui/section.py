"""The section "LoRA by region" of txt2img and img2img: its form, and what infotexts keep of it."""

from __future__ import annotations

import base64
import functools
import io
from typing import TYPE_CHECKING, Any

from modules import scripts

if TYPE_CHECKING:
    from lora_train.hosts.webui.whose import Wish

TITLE = "LoRA by region"
WHOLE = "whole picture"
HOW = ("columns", "rows", "colours", WHOLE)
REGIONS, OWNERS, BY_PROMPT, BARE = (
    "LoRA regions", "LoRA regions of", "LoRA by AND prompt", "LoRA not on negative")  # fmt: skip
ABOUT = (
    "LoRAs of the prompt act in a region each: the first <code>&lt;lora:…&gt;</code> in the first region, "
    "and so on; those left over act everywhere. Colours count in the order red, green, blue, yellow, cyan, "
    "magenta, as far as they are in the picture; black and white are nobody's."
)


class Section(scripts.Script):
    """Always there, and off. Its arguments, for the API's `alwayson_scripts` too, are those of `wished`."""

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> object:
        from lora_train.hosts.webui.versions import unsupported

        told = hasattr(scripts.Script, "process_before_every_sampling")  # from 1.9 on
        return scripts.AlwaysVisible if told and unsupported() is None else False

    def ui(self, is_img2img: bool) -> list:
        import gradio
        from modules.ui_components import InputAccordion

        with InputAccordion(False, label=TITLE, elem_id=self.elem_id("lora_train_regions")) as on:
            gradio.HTML(f"<p>{ABOUT}</p>")
            with gradio.Row():
                how = gradio.Radio([*HOW], value=HOW[0], label="Regions", elem_id=self.elem_id("how"))
                shares = gradio.Textbox("1,1", label="Their shares", elem_id=self.elem_id("shares"))
            picture = gradio.Image(
                label="Picture with a colour for each region", type="pil", image_mode="RGB", height=240,
                visible=False, elem_id=self.elem_id("picture"))  # fmt: skip
            owners = gradio.Textbox(
                "", label="LoRAs of the regions (empty: one each, in the prompt's order)",
                placeholder="style; eyes, hair; style", elem_id=self.elem_id("owners"))  # fmt: skip
            with gradio.Row():
                by_prompt = gradio.Checkbox(
                    False, label="With AND: a LoRA acts on the prompt that names it, alone",
                    elem_id=self.elem_id("by_prompt"))  # fmt: skip
                bare = gradio.Checkbox(
                    False, label="Negative prompt without LoRAs", elem_id=self.elem_id("bare")
                )
        how.change(_shown, [how], [shares, picture], show_progress=False)
        self.infotext_fields = [
            (on, lambda d: bool({REGIONS, BY_PROMPT, BARE} & d.keys())),
            (how, lambda d: d.get(REGIONS, WHOLE).partition(" ")[0] if _ours(d) else None),
            (shares, _pasted_shares),
            (picture, _pasted_picture),
            (owners, lambda d: d.get(OWNERS, "") if _ours(d) else None),
            (by_prompt, lambda d: BY_PROMPT in d if _ours(d) else None),
            (bare, lambda d: BARE in d if _ours(d) else None),
        ]
        self.paste_field_names = [REGIONS, OWNERS, BY_PROMPT, BARE]
        return [on, how, shares, picture, owners, by_prompt, bare]

    def process(self, p: Any, *args: Any) -> None:
        """What the infotext keeps, and complaints, before the first step."""
        wish = self._wish(p, args, told=True)
        if wish is None:
            return
        kept = {
            REGIONS: wish.split and str(wish.split), OWNERS: "; ".join(map(", ".join, wish.owners)),
            BY_PROMPT: wish.by_prompt, BARE: wish.bare,
        }  # fmt: skip
        p.extra_generation_params.update({name: value for name, value in kept.items() if value})

    def process_before_every_sampling(self, p: Any, *args: Any, **_: Any) -> None:
        """Of hires fix as well."""
        from lora_train.hosts.webui.regional import Passes
        from lora_train.hosts.webui.whose import Said

        wish = self._wish(p, args)
        if wish is None or p.disable_extra_networks:
            return
        texts = p.all_hr_prompts if p.is_hr_pass else p.all_prompts
        try:
            said = Said.read(texts[p.iteration * p.batch_size])
        except ValueError as e:
            p.comment(f"{TITLE}: {e} (without effect in this picture)")
            return
        if lost := wish.lost(said):
            p.comment(f"{TITLE}: {', '.join(lost)}: no LoRA of this name in the prompt")
        if said.tags:
            passes = Passes(p, p.sampler, wish, said)
            p.sampler.launch_sampling = functools.partial(passes.sampled, p.sampler.launch_sampling)

    def _wish(self, p: Any, args: tuple, *, told: bool = False) -> Wish | None:
        from lora_train.hosts.webui.regional import reason

        if not args or not args[0]:
            return None
        try:
            wish = wished(*args)
        except ValueError as e:
            said = str(e)
        else:
            said = reason(p)
            if said is None:
                return None if wish.empty else wish
        if told:
            p.comment(f"{TITLE}: {said} (without effect in this picture)")
        return None


def wished(  # noqa: PLR0913 (as gradio calls it)
    on: bool, how: str = HOW[0], shares: str = "1,1", picture: Any = None, owners: str = "",
    by_prompt: bool = False, bare: bool = False,
) -> Wish:  # fmt: skip
    """Args:
        how: one of HOW, or regions as an infotext has them.
        picture: for colours; of the API, base64.

    Raises:
        ValueError: what cannot be read.
    """
    from lora_train.hosts.webui.split import Split
    from lora_train.hosts.webui.whose import Wish

    if how == "colours":
        if picture is None:
            raise ValueError("regions = colours: expected a picture with a colour for each region")
        how = str(Split.painted(_picture(picture)))
    elif how in HOW:
        how = "" if how == WHOLE else f"{how} {shares}"
    return Wish.read(how, str(owners or ""), bool(by_prompt), bool(bare))


def _picture(given: Any) -> Any:
    from PIL import Image

    if not isinstance(given, str):
        return given if isinstance(given, Image.Image) else Image.fromarray(given)
    try:
        return Image.open(io.BytesIO(base64.b64decode(given.rpartition(",")[2])))
    except (OSError, ValueError):
        raise ValueError("regions = colours: expected a picture, as base64") from None


def _shown(how: str) -> list[dict]:
    import gradio

    return [gradio.update(visible=how in ("columns", "rows")), gradio.update(visible=how == "colours")]


def _ours(told: dict) -> bool:
    """Others' infotexts switch us off, and leave the rest as a person had it."""
    return any(name in told for name in (REGIONS, BY_PROMPT, BARE))


def _pasted_shares(told: dict) -> str | None:
    kind, _, rest = told.get(REGIONS, "").partition(" ")
    return rest if kind in ("columns", "rows") else None


def _pasted_picture(told: dict) -> dict | None:
    from lora_train.hosts.webui.split import Split

    text = told.get(REGIONS, "")
    if not text.startswith("colours"):
        return None
    import gradio

    return gradio.update(value=Split.read(text).picture())
