"""What a checkpoint says of itself before it is loaded."""

import transformers


def names_variant(model: str) -> bool:
    """Whether a checkpoint's config.json names its variant; what cannot be read is told by `model.loading.load`."""
    try:
        return bool(transformers.PretrainedConfig.get_config_dict(model)[0].get("swwatch"))
    except (OSError, ValueError):
        return True
