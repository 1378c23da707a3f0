"""<lora:name:1> and the like in prompts."""

from lora_train.emphasis import TAG

KINDS = ("lora", "hypernet")


def parse_prompt(prompt):
    found = {kind: [m[2].split(":") for m in TAG.finditer(prompt) if m[1] == kind] for kind in KINDS}
    return TAG.sub("", prompt), found


def activate(p, extra_network_data):
    import networks

    from modules import shared

    wanted, hypernets = ([*extra_network_data.get(kind, [])] for kind in ("lora", "hypernet"))
    for added, option in ((wanted, "sd_lora"), (hypernets, "sd_hypernetwork")):
        if getattr(shared.opts, option) != "None":
            added.append([getattr(shared.opts, option), "1.0"])
    shared.loaded_hypernetworks[:] = [words[0] for words in hypernets]
    names = [words[0] for words in wanted]
    strengths = [float(words[1]) if len(words) > 1 else 1.0 for words in wanted]
    networks.load_networks(names, strengths, strengths, [None] * len(names))


def deactivate(p, extra_network_data):
    pass
