"""Who wants to be told, and telling them."""

told = {}


def _on(name):
    def on(callback, *, name_=name):
        told.setdefault(name_, []).append(callback)

    return on


on_app_started, on_model_loaded, on_ui_tabs = _on("app_started"), _on("model_loaded"), _on("ui_tabs")
on_ui_settings, on_before_ui, on_script_unloaded = (
    _on("ui_settings"),
    _on("before_ui"),
    _on("script_unloaded"),
)
on_before_reload, on_after_component = _on("before_reload"), _on("after_component")
on_cfg_denoiser = _on("cfg_denoiser")


def cfg_denoiser_callback(params):
    for callback in told.get("cfg_denoiser", []):
        callback(params)


def remove_callbacks_for_function(callback):
    for callbacks in told.values():
        callbacks[:] = [c for c in callbacks if c != callback]


def model_loaded_callback(sd_model):
    for callback in told.get("model_loaded", []):
        callback(sd_model)
