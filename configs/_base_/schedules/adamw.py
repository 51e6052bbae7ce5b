# AdamW without weight decay on norms, alpha, layer scale, position embeddings and similar
# parameters of stock backbones.
optim_wrapper = dict(
    type='OptimWrapper',
    # Fused, because then a step that is not finite is skipped without waiting for the GPU.
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            'alpha_logit': dict(decay_mult=0.),
            'layer_scale': dict(decay_mult=0.),
            'pos_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.),
            'cls_token': dict(decay_mult=0.)
        }))
