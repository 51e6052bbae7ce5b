"""The operators of ``mmcv._ext`` on torchvision and torch, for mmcv without compiled ones.

``mmcv-lite`` is mmcv's pure wheel. It has the Python side of ``mmcv.ops`` and lacks only the
compiled module ``mmcv._ext``, whose place :mod:`mmscheme.mmcv_ext.operators` takes: after
``python -m mmscheme install_mmcv_ops`` for every program of an environment, after
:func:`activate` for one process. It needs torch and torchvision, no compiler, and runs on CPUs
and GPUs. Compiled operators, where they exist, always have precedence.

What the packages import from ``mmcv.ops``, and what ``mmcv._ext`` has to bring for it:

=================================  ====================================================  =======
operators                          users in mmdet 3.3.0 and mmsegmentation 1.2.2         form
=================================  ====================================================  =======
nms                                every detector, through ``batched_nms``               CPU, GPU
softnms                            ``soft_nms`` of some configs, test time augmentation  CPU [1]_
nms_match                          sampler of PISA                                       CPU [1]_
bbox_overlaps                      none; users of ``mmcv.ops.bbox_overlaps``             CPU, GPU
roi_align                          R-CNNs, masks of the data set                         CPU, GPU
roi_pool                           ``RoIPool`` by name in a config                       CPU, GPU
deform_roi_pool                    configs of dpool and mdpool                           CPU, GPU
deform_conv                        DCN, RepPoints, VFNet, TOOD, DetectoRS, Guided        CPU, GPU
                                   Anchoring, FoveaBox, Cascade RPN
modulated_deform_conv              DCNv2, DyHead, GLIP                                   CPU, GPU
ms_deform_attn                     Deformable DETR, DINO, Mask2Former, DDQ,              CPU [2]_,
                                   Grounding DINO                                        GPU
sigmoid_focal_loss                 RetinaNet and other one-stage detectors, mmseg's      CPU, GPU
                                   ``FocalLoss`` on a GPU
softmax_focal_loss                 none; users of ``mmcv.ops.softmax_focal_loss``        CPU, GPU
carafe, carafe_naive               ``FPN_CARAFE``, mask heads                            CPU, GPU
masked_im2col, masked_col2im       Guided Anchoring                                      CPU, GPU
psamask                            PSANet                                                CPU, GPU
sync_bn                            ``MMSyncBN`` of some configs                          CPU, GPU
=================================  ====================================================  =======

``point_sample``, ``CornerPool``, ``CrissCrossAttention`` and the merge cells are Python in mmcv
itself; mmpretrain imports nothing. All other names of ``mmcv._ext`` exist and raise one line.

.. [1] mmcv itself copies to the CPU.
.. [2] mmcv itself uses its PyTorch form there.
"""
from .activation import activate

__all__ = ['activate']
