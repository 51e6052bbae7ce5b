# Runtime shared by all tasks; each task's base adds its scope and visualizer.
default_hooks = dict(
    # Reads the losses from the device when they are logged, not in every iteration.
    runtime_info=dict(type='mmscheme.RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmscheme.LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Written so that a kill or a full disk leaves one to go on from.
    checkpoint=dict(type='mmscheme.CheckpointHook', max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Checkpoints that torch >= 2.6 reads with its safe default.
    plain_checkpoint=dict(type='mmscheme.PlainCheckpointHook'),
    # A run that resumes with another length follows the new schedule.
    resumed_schedule=dict(type='mmscheme.ResumedScheduleHook'),
    # Keeps losses and gradients that are not finite out of the weights; so many iterations in a
    # row stop the run.
    non_finite=dict(type='mmscheme.NonFiniteLossHook', limit=5),
    # Weights for the backbone from this checkpoint (tools/train.py --pretrained), or None.
    pretrained_backbone=dict(type='mmscheme.PretrainedBackboneHook', checkpoint=None),
    # The CCA weight is multiplied by a factor that starts to fall and is zero at these
    # fractions of training; `decay=None` leaves alpha to itself. `retire=0.001` stops computing
    # the CCA of a block whose CCA weight has fallen below that.
    mixing_schedule=dict(type='mmscheme.MixingScheduleHook', decay=(0.5, 0.9), retire=None),
    # alpha of each block in the logs, and at the end whether CCA has decayed.
    mixing_weights=dict(type='mmscheme.MixingWeightsHook'))
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
# Training data that cannot be read: 'stop', or 'skip' to go on without, up to so many files.
on_bad_data = 'stop'
max_bad_data = 100
log_level = 'INFO'
load_from = None
resume = False
