"""All names of ``mmcv._ext``: what ``mmcv.ops`` gets where mmcv has no compiled operators."""
import functools
from typing import Any, Callable, NoReturn

import torch
from torch import Tensor

from . import boxes, deform_attn, deform_conv, focal_loss, maps, roi, sync_bn

__all__ = ['ABSENT', 'PRESENT']

_MODULES = boxes, deform_attn, deform_conv, focal_loss, maps, roi, sync_bn
PRESENT = sorted(name for module in _MODULES for name in module.__all__)
# What else mmcv 2.1.0 asks for: rotated boxes, points, text, video and generative models.
ABSENT = '''
    active_rotated_filter_backward active_rotated_filter_forward assign_score_withk_backward
    assign_score_withk_forward ball_query_forward bezier_align_backward bezier_align_forward
    bias_act border_align_backward border_align_forward box_iou_quadri box_iou_rotated
    chamfer_distance_backward chamfer_distance_forward contour_expand convex_giou convex_iou
    correlation_backward correlation_forward diff_iou_rotated_sort_vertices_forward
    dynamic_point_to_voxel_backward dynamic_point_to_voxel_forward dynamic_voxelize_forward
    filtered_lrelu filtered_lrelu_act_ furthest_point_sampling_forward
    furthest_point_sampling_with_dist_forward fused_bias_leakyrelu fused_indice_conv_forward
    gather_points_backward gather_points_forward get_indice_pairs_2d_backward
    get_indice_pairs_2d_forward get_indice_pairs_3d_backward get_indice_pairs_3d_forward
    get_indice_pairs_4d_forward group_points_backward group_points_forward hard_voxelize_forward
    indice_conv_backward indice_conv_forward indice_maxpool_backward indice_maxpool_forward
    iou3d_boxes_overlap_bev_forward iou3d_nms3d_forward iou3d_nms3d_normal_forward knn_forward
    min_area_polygons nms_quadri nms_rotated pixel_group points_in_boxes_all_forward
    points_in_boxes_cpu_forward points_in_boxes_part_forward points_in_polygons_forward
    prroi_pool_backward prroi_pool_coor_backward prroi_pool_forward riroi_align_rotated_backward
    riroi_align_rotated_forward roi_align_rotated_backward roi_align_rotated_forward
    roiaware_pool3d_backward roiaware_pool3d_forward roipoint_pool3d_forward
    rotated_feature_align_backward rotated_feature_align_forward stack_ball_query_forward
    stack_group_points_backward stack_group_points_forward three_interpolate_backward
    three_interpolate_forward three_nn_forward tin_shift_backward tin_shift_forward upfirdn2d
'''.split()


def _without_autocast(function: Callable) -> Callable:
    """Return the function with types of its own: autocast would change some of them."""

    @functools.wraps(function)
    def operator(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return operator


def _refusal(name: str) -> Callable:

    def operator(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f'{name}: this operator needs compiled mmcv, found mmcv-lite with the operators of '
            'mmscheme (pip uninstall mmcv-lite, then pip install mmcv==2.1.0 builds it; in a '
            'clone of mmscheme: python3 tools/dev.py --with-mmcv setup)')

    operator.__name__ = operator.__qualname__ = name
    return operator


def get_compiler_version() -> str:
    """Return that there is none, for mmcv's list of the environment."""
    return 'none (operators of mmscheme on torchvision)'


def get_compiling_cuda_version() -> str:
    """Return that there is none, for mmcv's list of the environment."""
    return 'none (operators of mmscheme on torchvision)'


globals().update({name: _without_autocast(getattr(module, name))
                  for module in _MODULES for name in module.__all__})
globals().update({name: _refusal(name) for name in ABSENT})
