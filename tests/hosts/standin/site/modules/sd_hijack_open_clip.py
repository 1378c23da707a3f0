"""OpenCLIP's text towers as the WebUI wraps them. What follows the end of a prompt is 0 for them."""

from modules import sd_hijack_clip
from tests.hosts.standin import tower


class FrozenOpenCLIPEmbedderWithCustomWords(sd_hijack_clip.FrozenCLIPEmbedderWithCustomWordsBase):
    def __init__(self, wrapped, hijack):
        super().__init__(wrapped, hijack)
        words = tower.tokenizer()
        self.comma_token = words.get_vocab()[",</w>"]
        self.id_start, self.id_end, self.id_pad = words.bos_token_id, words.eos_token_id, 0

    def tokenize(self, texts):
        return tower.tokenizer()(texts, truncation=False, add_special_tokens=False)["input_ids"]

    def encode_with_transformers(self, tokens):
        return self.wrapped.encode_with_transformer(tokens)


class FrozenOpenCLIPEmbedder2WithCustomWords(FrozenOpenCLIPEmbedderWithCustomWords):
    def encode_with_transformers(self, tokens):
        found = self.wrapped.encode_with_transformer(tokens)
        z = found[self.wrapped.layer]
        z.pooled = found["pooled"]
        return z
