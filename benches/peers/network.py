"""torch's side of a model name: timm's, or a T2T-ViT of the authors' code, which timm does not have.

    git clone https://github.com/yitu-opensource/T2T-ViT /tmp/t2t && export T2T_VIT=/tmp/t2t
"""

import os
import sys


def create(name: str, **options):
    """The network in training mode."""
    if name.startswith("t2t_"):
        folder = os.environ.get("T2T_VIT")
        if not folder:
            sys.exit(f"{name}: set T2T_VIT to a clone of https://github.com/yitu-opensource/T2T-ViT")
        sys.path.insert(0, folder)
        from models import t2t_vit

        return getattr(t2t_vit, name)(**options)
    import timm

    return timm.create_model(name, **options)


def side(name: str) -> int:
    """Rows of its usual images."""
    if name.startswith("t2t_"):
        return 224
    import timm

    return timm.get_pretrained_cfg(name).input_size[-1]
