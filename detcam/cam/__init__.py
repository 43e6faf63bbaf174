"""The shared core: CAM formulas of tensors and their registry. Knows no detector, file or picture."""

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
from detcam.cam.inputs import check_feature_maps, check_same_shape
from detcam.cam.methods import ALIASES, METHODS, Method, get_method

__all__ = [
    "ALIASES",
    "METHODS",
    "Method",
    "box_control",
    "cell_blob_control",
    "check_feature_maps",
    "check_same_shape",
    "eigen_cam",
    "eigen_grad_cam",
    "gaussian_in_box_control",
    "get_method",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "random_control",
    "ss_grad_cam",
    "ss_grad_cam_plus_plus",
    "x_grad_cam",
]
