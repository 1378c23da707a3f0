"""Settings: `data` holds only what was set, the rest are defaults."""


class Options:
    def __init__(self, defaults):
        vars(self).update(defaults=dict(defaults), data={}, changes=[])

    def __getattr__(self, name):
        held = vars(self)
        for place in (held["data"], held["defaults"]):
            if name in place:
                return place[name]
        raise AttributeError(name)

    def __setattr__(self, name, value):
        self.data[name] = value

    def set(self, name, value, is_api=False, run_callbacks=True):
        """As when a person changes it: the value is written before what follows from it."""
        if self.data.get(name, self.defaults.get(name)) == value:
            return False
        self.data[name] = value
        if run_callbacks:
            self.changes.append(name)
        return True

    def get_default(self, name):
        return self.defaults.get(name)

    def add_option(self, name, info):
        self.defaults.setdefault(name, info.default)


class OptionInfo:
    def __init__(
        self, default=None, label="", component=None, component_args=None, onchange=None, section=None
    ):
        self.default, self.label, self.section = default, label, section

    def info(self, text):
        return self

    needs_restart = lambda self: self  # noqa: E731
