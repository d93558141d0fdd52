"""The small restorer that ships inside the package: network, adapters, weights.

`network` is the U-Net. `detail_floor` keeps the network from removing strong detail. `adapter` fits
it to one avatar with a LoRA. README.md is the model card of weights.safetensors.
"""

from splatmend.core.compact.adapter import fingerprint, load_adapter, save_adapter
from splatmend.core.compact.network import Compact, CompactConfig

__all__ = ["Compact", "CompactConfig", "fingerprint", "load_adapter", "save_adapter"]
