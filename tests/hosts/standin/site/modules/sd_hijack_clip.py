"""The text encoder as the WebUI wraps it: prompts of any length, with emphasis and learned words."""

import math

import torch
from torch import nn

from modules import devices, prompt_parser
from modules.shared import opts


class PromptChunk:
    def __init__(self, tokens=(), multipliers=(), fixes=()):
        self.tokens, self.multipliers, self.fixes = list(tokens), list(multipliers), list(fixes)


class FrozenCLIPEmbedderWithCustomWordsBase(nn.Module):
    chunk_length = 75

    def __init__(self, wrapped, hijack):
        super().__init__()
        self.hijack, self.wrapped, self.legacy_ucg_val = hijack, wrapped, None
        self.is_trainable = getattr(wrapped, "is_trainable", False)
        self.input_key = getattr(wrapped, "input_key", "txt")
        self.return_pooled = getattr(wrapped, "return_pooled", False)

    def get_target_prompt_token_count(self, token_count):
        return math.ceil(max(token_count, 1) / self.chunk_length) * self.chunk_length

    def _full(self, chunk):
        lack = self.chunk_length - len(chunk.tokens)
        tokens = [self.id_start, *chunk.tokens, *[self.id_end] * (lack + 1)]
        return PromptChunk(tokens, [1.0, *chunk.multipliers, *[1.0] * (lack + 1)], chunk.fixes)

    def empty_chunk(self):
        return self._full(PromptChunk())

    def tokenize_line(self, line):
        parsed = [[line, 1.0]] if opts.emphasis == "None" else prompt_parser.parse_prompt_attention(line)
        chunks, chunk = [], PromptChunk()
        for tokens, (text, weight) in zip(self.tokenize([text for text, _ in parsed]), parsed, strict=True):
            if (text, weight) == ("BREAK", -1):
                chunks.append(chunk)
                chunk = PromptChunk()
                continue
            position = 0
            while position < len(tokens):
                token = tokens[position]
                if len(chunk.tokens) == self.chunk_length:
                    rest = PromptChunk()
                    if token != self.comma_token and self.comma_token in chunk.tokens:
                        at = self.chunk_length - chunk.tokens[::-1].index(self.comma_token)
                        if self.chunk_length - at < opts.comma_padding_backtrack:
                            rest = PromptChunk(chunk.tokens[at:], chunk.multipliers[at:])
                            chunk = PromptChunk(chunk.tokens[:at], chunk.multipliers[:at])
                    chunks.append(chunk)
                    chunk = rest
                learned, length = self.hijack.embedding_db.find_embedding_at_position(tokens, position)
                if learned is None:
                    chunk.tokens.append(token)
                    chunk.multipliers.append(weight)
                    position += 1
                    continue
                if len(chunk.tokens) + learned.vectors > self.chunk_length:
                    chunks.append(chunk)
                    chunk = PromptChunk()
                chunk.fixes.append((len(chunk.tokens), learned))
                chunk.tokens += [0] * learned.vectors
                chunk.multipliers += [weight] * learned.vectors
                position += length
        count = self.chunk_length * len(chunks) + len(chunk.tokens)
        if chunk.tokens or not chunks:
            chunks.append(chunk)
        return [self._full(chunk) for chunk in chunks], count

    def process_texts(self, texts):
        lines = [self.tokenize_line(line) for line in texts]
        return [chunks for chunks, _ in lines], max(count for _, count in lines)

    def forward(self, texts):
        lines, _ = self.process_texts(texts)
        empty, longest = self.empty_chunk(), max(map(len, lines))
        found = []
        for i in range(longest):
            chunks = [line[i] if i < len(line) else empty for line in lines]
            self.hijack.fixes = [chunk.fixes for chunk in chunks]
            found.append(self.process_tokens([c.tokens for c in chunks], [c.multipliers for c in chunks]))
        return (torch.hstack(found), found[0].pooled) if self.return_pooled else torch.hstack(found)

    def process_tokens(self, tokens, multipliers):
        read = torch.asarray(tokens).to(devices.device)
        if self.id_end != self.id_pad:
            for row, of_row in zip(read, tokens, strict=True):
                row[of_row.index(self.id_end) + 1 :] = self.id_pad
        z = self.encode_with_transformers(read)
        pooled = getattr(z, "pooled", None)
        if opts.emphasis in ("Original", "No norm"):
            mean = z.mean()
            z = z * torch.asarray(multipliers).to(devices.device)[..., None].expand(z.shape)
            if opts.emphasis == "Original":
                z = z * (mean / z.mean())
        if pooled is not None:
            z.pooled = pooled
        return z


class FrozenCLIPEmbedderWithCustomWords(FrozenCLIPEmbedderWithCustomWordsBase):
    def __init__(self, wrapped, hijack):
        super().__init__(wrapped, hijack)
        self.tokenizer = wrapped.tokenizer
        self.id_start, self.id_end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        self.id_pad = self.id_end
        self.comma_token = self.tokenizer.get_vocab()[",</w>"]

    def tokenize(self, texts):
        return self.wrapped.tokenizer(texts, truncation=False, add_special_tokens=False)["input_ids"]

    def encode_with_transformers(self, tokens):
        skip, transformer = opts.CLIP_stop_at_last_layers, self.wrapped.transformer
        outputs = transformer(input_ids=tokens, output_hidden_states=True)
        if skip > 1:
            return transformer.text_model.final_layer_norm(outputs.hidden_states[-skip])
        return outputs.last_hidden_state


class FrozenCLIPEmbedderForSDXLWithCustomWords(FrozenCLIPEmbedderWithCustomWords):
    """Clip skip is the config's, unless the settings say otherwise, and no norm comes after it."""

    def encode_with_transformers(self, tokens):
        outputs = self.wrapped.transformer(input_ids=tokens, output_hidden_states=True)
        layer = -opts.CLIP_stop_at_last_layers if opts.sdxl_clip_l_skip else self.wrapped.layer_idx
        return outputs.hidden_states[layer]
