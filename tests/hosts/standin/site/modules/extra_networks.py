"""<lora:name:1> and the like in prompts."""

from lora_train.emphasis import TAG

KINDS = ("lora", "hypernet")


class ExtraNetworkParams:
    """What stands in such brackets: values by their places, and by their names."""

    def __init__(self, items=None):
        self.items, self.positional, self.named = items or [], [], {}
        for item in self.items:
            parts = item.split("=", 2)
            if len(parts) == 2:
                self.named[parts[0]] = parts[1]
            else:
                self.positional.append(item)

    def __repr__(self):
        return repr(self.items)


class ExtraNetworkLora:
    name = "lora"

    def activate(self, p, params_list):
        import networks

        found = []
        for params in params_list:
            name, *numbers = params.positional
            te = float(params.named.get("te", numbers[0] if numbers else 1.0))
            unet = float(params.named.get("unet", numbers[1] if numbers[1:] else te))
            dyn = int(params.named.get("dyn", numbers[2])) if numbers[2:] or "dyn" in params.named else None
            found.append((name, te, unet, dyn))
        networks.load_networks(*(list(column) for column in zip(*found, strict=True)) if found else [[]])


extra_network_registry = {"lora": ExtraNetworkLora()}


def parse_prompt(prompt):
    found = {
        kind: [ExtraNetworkParams(m[2].split(":")) for m in TAG.finditer(prompt) if m[1] == kind]
        for kind in KINDS
    }
    return TAG.sub("", prompt), found


def activate(p, extra_network_data):
    from modules import shared

    wanted, hypernets = ([*extra_network_data.get(kind, [])] for kind in ("lora", "hypernet"))
    for added, option in ((wanted, "sd_lora"), (hypernets, "sd_hypernetwork")):
        if getattr(shared.opts, option) != "None":
            added.append(ExtraNetworkParams([getattr(shared.opts, option), "1.0"]))
    shared.loaded_hypernetworks[:] = [params.items[0] for params in hypernets]
    extra_network_registry["lora"].activate(p, wanted)


def deactivate(p, extra_network_data):
    pass
