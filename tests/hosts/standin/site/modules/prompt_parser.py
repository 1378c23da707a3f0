"""Prompts. Conds have no schedules here: one for all steps."""

from lora_train.emphasis import pieces


class SdConditioning(list):
    """Prompts, and the size of the picture for families that read it."""

    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        self.is_negative_prompt, self.width, self.height = is_negative_prompt, width, height


def parse_prompt_attention(text):
    return [list(piece) for piece in pieces(text)] or [["", 1.0]]
