"""Files of weights of the user for networks of this package: another network's are refused in one sentence."""

from diffusers_jova.torch_files import check_weights


__all__ = ["check_weights"]
