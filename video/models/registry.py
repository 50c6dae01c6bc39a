"""Registry of the models by name, with the module of each.

A module has the functions of `video.models.classifiers.ModelModule`. To add a model, write its
module and name it here.
"""

from collections.abc import Mapping

MODULES: Mapping[str, str] = {
    "small3d": "video.models.small3d",
    "small3d_layout": "video.models.small3d",
    "r3d_18": "video.models.torchvision",
    "mc3_18": "video.models.torchvision",
    "r2plus1d_18": "video.models.torchvision",
    "s3d": "video.models.torchvision",
    "mvit_v2_s": "video.models.torchvision",
    "swin3d_t": "video.models.torchvision",
}
