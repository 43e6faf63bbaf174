"""The shared core: CAM formulas, and the engine that draws them of any network. It knows no detector."""

from detcam.cam.controls import box_control, cell_blob_control, gaussian_in_box_control, random_control
from detcam.cam.eigen_methods import eigen_cam, eigen_grad_cam
from detcam.cam.gradient_methods import (
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    ss_grad_cam,
    ss_grad_cam_plus_plus,
    x_grad_cam,
)
from detcam.cam.guided import guided_activations, guided_backprop, guided_grad_cam
from detcam.cam.inputs import check_feature_maps, check_same_shape
from detcam.cam.methods import ALIASES, METHODS, Method, get_method
from detcam.cam.network import ActivationMaps, activation_maps
from detcam.cam.network_inputs import NetworkInputs, unwrapped
from detcam.cam.replay import Replay, replayed
from detcam.cam.rescoring import ablated_scores, in_batches, masked_scores
from detcam.cam.score_methods import ablation_cam, class_activation_map, score_cam
from detcam.cam.targets import (
    BinaryScore,
    ClassProbability,
    ClassScore,
    Contrast,
    CosineSimilarity,
    MaskedClass,
    MaskScore,
    ReST,
    TopClass,
    Value,
)
from detcam.cam.tokens import TokenGrid

__all__ = [
    "ALIASES",
    "METHODS",
    "ActivationMaps",
    "BinaryScore",
    "ClassProbability",
    "ClassScore",
    "Contrast",
    "CosineSimilarity",
    "MaskScore",
    "MaskedClass",
    "Method",
    "NetworkInputs",
    "ReST",
    "Replay",
    "TokenGrid",
    "TopClass",
    "Value",
    "ablated_scores",
    "ablation_cam",
    "activation_maps",
    "box_control",
    "cell_blob_control",
    "check_feature_maps",
    "check_same_shape",
    "class_activation_map",
    "eigen_cam",
    "eigen_grad_cam",
    "gaussian_in_box_control",
    "get_method",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "guided_activations",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "in_batches",
    "layer_cam",
    "masked_scores",
    "random_control",
    "replayed",
    "score_cam",
    "ss_grad_cam",
    "ss_grad_cam_plus_plus",
    "unwrapped",
    "x_grad_cam",
]
