"""Autoencoders in place of a checkpoint's own."""

vae_dict, base_vae, loaded_vae_file, checkpoint_info = {}, None, None, None
vae_path, unspecified = "", object()


def get_loaded_vae_name():
    return None


def get_loaded_vae_hash():
    return None


def get_base_vae(model):
    return base_vae


def refresh_vae_list():
    pass


def reload_vae_weights(sd_model=None, vae_file=unspecified):
    pass
