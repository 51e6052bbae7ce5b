#!/usr/bin/env bash
# Dense, cut out, fitted, distilled and fine-tuned, in three forms of half the cost, by two seeds.
# IMAGENETTE and CAMVID are the data. Interrupted, it continues where it was.
set -eu
cd "$(dirname "$0")/../.."
out=${1:-work_dirs/dense2scheme}
convert() {  # config, checkpoint, data, name
    for form in '1 1 2' '2 2 4' '4 4 8'; do
        set -- "$1" "$2" "$3" "$4" $form
        python tools/model_converters/dense2scheme.py "$1" "$2" "$out/$4_$5$6e$7" --data-root "$3" \
            --groups "$5" "$6" --expansion "$7" --distill-iters 2000 --finetune-iters 500
    done
}
for seed in 0 1; do
    for name in cls_s12_dense cls_swin_dense; do
        work=$out/${name}_seed$seed
        [ -f "$work/last_checkpoint" ] && resume=--resume || resume=
        python tools/train.py studies/dense2scheme/configs/$name.py --data-root "$IMAGENETTE" \
            --work-dir "$work" --cfg-options randomness.seed=$seed $resume
        convert studies/dense2scheme/configs/$name.py "$(cat "$work/last_checkpoint")" \
            "$IMAGENETTE" ${name}_seed$seed
    done
    work=$out/semantic_fpn_seed$seed
    [ -f "$work/last_checkpoint" ] && resume=--resume || resume=
    python tools/train.py studies/dense2scheme/configs/semantic_fpn_s12_dense.py --work-dir "$work" \
        --data-root "$CAMVID" --cfg-options randomness.seed=$seed \
        --pretrained "$(cat "$out/cls_s12_dense_seed$seed/last_checkpoint")" $resume
    convert studies/dense2scheme/configs/semantic_fpn_s12_dense.py \
        "$(cat "$work/last_checkpoint")" "$CAMVID" semantic_fpn_seed$seed
done
