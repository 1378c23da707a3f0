"""What the Lora extension's kinds of layers share: a strength, of text encoders or of the UNet."""


class NetworkModule:
    def __init__(self, net, key):
        self.network, self.sd_key = net, key

    def multiplier(self):
        if "transformer" in self.sd_key[:20]:
            return self.network.te_multiplier
        return self.network.unet_multiplier
