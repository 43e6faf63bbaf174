"""What a network holds and computes, as it is: channels of its layers, maps of its head, kernels.

Nothing here asks why: no gradients, no target. `detcam.explain` does.
"""

from detcam.anatomy.activations import FeatureLayer, FeatureMaps, features
from detcam.anatomy.choice import Channels
from detcam.anatomy.kernel_sheets import Kernels, kernels
from detcam.anatomy.output_maps import HeadMap, OutputMaps, output_maps

__all__ = [
    "Channels",
    "FeatureLayer",
    "FeatureMaps",
    "HeadMap",
    "Kernels",
    "OutputMaps",
    "features",
    "kernels",
    "output_maps",
]
