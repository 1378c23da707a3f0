"""Folders; set by `standin.world`."""

models_path = data_path = script_path = extensions_dir = ""
