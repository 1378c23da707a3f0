"""<lora:name:1> and the like in prompts."""

from lora_train.emphasis import TAG


def parse_prompt(prompt):
    return TAG.sub("", prompt), {"lora": [m[2].split(":") for m in TAG.finditer(prompt) if m[1] == "lora"]}


def activate(p, extra_network_data):
    import networks

    wanted = extra_network_data.get("lora", [])
    names = [words[0] for words in wanted]
    strengths = [float(words[1]) if len(words) > 1 else 1.0 for words in wanted]
    networks.load_networks(names, strengths, strengths, [None] * len(names))


def deactivate(p, extra_network_data):
    pass
