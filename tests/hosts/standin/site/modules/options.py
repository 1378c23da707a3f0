"""Settings: `data` holds only what was set, the rest are defaults."""


class Options:
    def __init__(self, defaults):
        labels = {name: OptionInfo(default) for name, default in defaults.items()}
        vars(self).update(defaults=dict(defaults), data={}, data_labels=labels)

    def __getattr__(self, name):
        held = vars(self)
        for place in (held["data"], held["defaults"]):
            if name in place:
                return place[name]
        raise AttributeError(name)

    def __setattr__(self, name, value):
        self.data[name] = value

    def set(self, name, value, is_api=False, run_callbacks=True):
        """As when a person changes it: the value is written before what follows from it, and goes back where
        that fails."""
        before = self.data.get(name, self.defaults.get(name))
        if before == value:
            return False
        self.data[name] = value
        follows = self.data_labels[name].onchange
        if run_callbacks and follows is not None:
            try:
                follows()
            except Exception:  # noqa: BLE001 (the real one shows it in its console)
                self.data[name] = before
                return False
        return True

    def get_default(self, name):
        return self.defaults.get(name)

    def add_option(self, name, info):
        self.defaults.setdefault(name, info.default)
        self.data_labels.setdefault(name, info)


class OptionInfo:
    def __init__(
        self, default=None, label="", component=None, component_args=None, onchange=None, section=None
    ):
        self.default, self.label, self.section, self.onchange = default, label, section, onchange

    def info(self, text):
        return self

    needs_restart = lambda self: self  # noqa: E731
