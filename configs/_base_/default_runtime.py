# Runtime of all tasks; the base of each task adds its scope and visualizer.
default_hooks = dict(
    # Reads losses from the device only when they are logged, not in every iteration.
    runtime_info=dict(type='mmscheme.RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmscheme.LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Writes in an order that leaves a usable checkpoint after a kill or on a full disk.
    checkpoint=dict(type='mmscheme.CheckpointHook', max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Writes checkpoints that torch 2.6 and later can read by default.
    plain_checkpoint=dict(type='mmscheme.PlainCheckpointHook'),
    # A run that resumes with another length follows the new schedule.
    resumed_schedule=dict(type='mmscheme.ResumedScheduleHook'),
    # Skips steps whose loss or gradients are not finite; stops the run after `limit` such
    # iterations in a row.
    non_finite=dict(type='mmscheme.NonFiniteLossHook', limit=5),
    # Loads the backbone from this checkpoint, if any (tools/train.py --pretrained).
    pretrained_backbone=dict(type='mmscheme.PretrainedBackboneHook', checkpoint=None),
    # Adds the losses that spread tokens over the experts of shared-expert FFNs, if there are any.
    auxiliary_loss=dict(type='mmscheme.AuxiliaryLossHook'),
    # Multiplies the CCA weight by a factor that starts to fall at the first of these fractions
    # of training and is zero from the second on; `decay=None` leaves alpha to itself.
    # `retire=0.001` stops computing the CCA of blocks whose CCA weight is below that.
    mixing_schedule=dict(type='mmscheme.MixingScheduleHook', decay=(0.5, 0.9), retire=None),
    # Logs alpha of each block, the mean CCA weight, and at the end if CCA has decayed.
    mixing_weights=dict(type='mmscheme.MixingWeightsHook'))
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
# If training data cannot be read: 'stop', or 'skip' them, up to `max_bad_data` files.
on_bad_data = 'stop'
max_bad_data = 100
log_level = 'INFO'
load_from = None
resume = False
