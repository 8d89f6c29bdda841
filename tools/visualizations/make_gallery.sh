#!/usr/bin/env bash
# Makes the pictures of docs/visualization.md: bash tools/visualizations/make_gallery.sh [FOLDER]
# Detection is a finished default quickstart (bash tools/quickstart.sh). Segmentation and classification are four
# small models that are trained here, without distillation, where they are not there yet (about 8 minutes, two cores).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tools/python.sh
out=${1:-docs/gallery}
work=work_dirs/gallery
vis=tools/visualizations
demo=configs/demo

[ -d data/gallery ] || "$PYTHON" tools/dataset_tools/make_gallery_data.py
for task in segmenter classifier; do
  for depth in 18 34; do
    [ -f $work/$task$depth/last_checkpoint ] || "$PYTHON" tools/train.py $demo/gallery_$task.py \
      --work-dir $work/$task$depth --cfg-options model.backbone.depth=$depth
  done
done

run=work_dirs/quickstart
student=($demo/quickstart_student.py $run/student/iter_1200.pth)
cankd=($demo/quickstart_cankd.py $run/cankd/iter_1200.pth)
scene=data/quickstart/val/00003.png
"$PYTHON" $vis/feature_visualization.py $scene "${student[0]}" configs/vis/fpn_from_p2_feature_visualization.py \
  "${student[1]}" --panel --use-norm --title "student alone" --model "with CanKD" "${cankd[@]}" \
  --teacher teacher "${cankd[@]}" --out-file "$out/features.png"
"$PYTHON" $vis/feature_diff_visualization.py $scene "${cankd[0]}" "${cankd[0]}" \
  configs/vis/fpn_from_p2_feature_diff_visualization.py "${cankd[1]}" "${cankd[1]}" --roles student teacher \
  --titles "with CanKD" teacher --panel --use-norm --out-file "$out/difference.png"
"$PYTHON" $vis/predictions.py data/quickstart/val/000{03,11}.png --ground-truth --model "student alone" "${student[@]}" \
  --model "with CanKD" "${cankd[@]}" --teacher teacher "${cankd[@]}" --out-file "$out/boxes.png"
"$PYTHON" $vis/attention.py $scene "${cankd[@]}" --points 70,58 10,10 --losses loss_fpn0 loss_fpn1 loss_fpn2 \
  --out-file "$out/attention.png"

sizes() { # the two models of a task
  for depth in 18 34; do
    echo --model ResNet-$depth $work/$1$depth/gallery_$1.py $work/$1$depth/iter_400.pth
  done
}
"$PYTHON" $vis/predictions.py data/gallery/val/images/000{03,20}.png --ground-truth $(sizes segmenter) \
  --out-file "$out/labels.png"
"$PYTHON" $vis/grad_cam.py data/gallery/val/digits/3/00013_0.png $(sizes classifier) --out-file "$out/grad_cam.png"

# Small enough for a repository: 1000 pixels, 256 colours.
(cd "$out" && "$PYTHON" - features difference boxes attention labels grad_cam) <<'SHRINK'
import sys
from PIL import Image

for name in sys.argv[1:]:
    image = Image.open(f"{name}.png").convert("RGB")
    image.thumbnail((1000, 1000))
    image.quantize(256, Image.Quantize.FASTOCTREE, kmeans=4).save(f"{name}.png", optimize=True)
SHRINK
