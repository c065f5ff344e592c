#!/usr/bin/env bash
# The whole way in small, in minutes on two cores: synthetic actors -> cold start -> GRPO -> evaluation -> labelling.
#
#   bash runs/tiny_cpu.sh FACEKIT [WORK]
#
# The models are random and tiny (omni/tiny.py, widths 16 to 64), so their answers are worth nothing. What it shows is
# that every part works with the next, and that GRPO learns: the cold start leaves most sampled answers malformed, and
# with each of three seeds the mean reward of the last quarter of the steps must exceed that of the first by MARGIN.
# FACEKIT is the converted ICT-FaceKit (README, "Where the data come from").
# Needs: pip install -e ".[train,actors]" and pip install --no-deps -r requirements/actors.txt
set -euo pipefail
cd "$(dirname "$0")/.."
: "${1:?usage: bash runs/tiny_cpu.sh FACEKIT [WORK]}"
facekit=$(realpath "$1") work=${2:-outputs/tiny_cpu}
MARGIN=0.15
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1  # more threads only slow such small models
mkdir -p "$work"

part() {  # part NAME COMMAND...: run, and say how long it took
  local name=$1 start=$SECONDS
  shift
  "$@"
  echo "$name: $((SECONDS - start)) s" | tee -a "$work/times.txt"
}

actors() { python -m data actors --facekit "$facekit" --out "$work/corpus" --size 64 "$@"; }
tiny() {
  python - "$work/base" <<'PYTHON'
import sys

from omni.tiny import tiny

model, processor = tiny()
for weight in model.model.language_model.parameters():
    if weight.ndim == 2:  # 0.02 is the usual spread; at width 32 it takes 0.18 for a layer to pass anything on
        weight.data.mul_(9)
model.save_pretrained(sys.argv[1])
processor.save_pretrained(sys.argv[1])
PYTHON
}
small=(--features "$work/features" --bf16 false --save_strategy no --disable_tqdm true)

part "train clips" actors --split train --clips 48
part "test clips" actors --split test --clips 16
part "tiny model" tiny
part "cold start" python train_sft.py --config configs/sft_default.yaml --train "$work/corpus/train.jsonl" \
  --model "$work/base" --output_dir "$work/sft" --align_epochs 10 --reasoned 0 --labelled 1 --max_steps 400 \
  --lora_rank 16 --lora_alpha 64 --learning_rate 1e-2 --logging_steps 100 "${small[@]}"
grpo() {  # grpo SEED
  python train_grpo.py --config configs/grpo_default.yaml --train "$work/corpus/train.jsonl" --model "$work/sft" \
    --output_dir "$work/grpo-$1" --mode no-think --full true --max_steps 50 --learning_rate 1e-3 --temperature 0.6 \
    --max_completion_length 40 --per_device_train_batch_size 64 --warmup_steps 2 --seed "$1" "${small[@]}" \
    >"$work/grpo-$1.log" 2>&1 || { tail -n 5 "$work/grpo-$1.log"; return 1; }
}
three() {  # at once: each takes one core
  local runs=()
  for seed in 0 1 2; do grpo "$seed" & runs+=($!); done
  for run in "${runs[@]}"; do wait "$run"; done
}
part "GRPO, three seeds" three
part "evaluation" python benchmarks/eval_default.py "$work/corpus/test.jsonl" "$work/results.json" \
  --model "$work/grpo-0" --features "$work/features"
part "labelling" omni label "$work/corpus/test" --out "$work/labels.jsonl" --model "$work/grpo-0" --no-think
omni report "$work/grpo-0"
python - "$MARGIN" "$work"/grpo-?/trainer_state.json <<'PYTHON'
import json
import sys
from statistics import fmean

gains = []
for path in sys.argv[2:]:
    rewards = [row["reward"] for row in json.load(open(path))["log_history"] if "reward" in row]
    quarter = len(rewards) // 4
    gains.append(fmean(rewards[-quarter:]) - fmean(rewards[:quarter]))
print("mean reward, last quarter less first:", ", ".join(f"{gain:.2f}" for gain in gains))
if len(gains) != 3 or min(gains) < float(sys.argv[1]):
    sys.exit(f"GRPO must gain {sys.argv[1]} with each of three seeds.")
PYTHON
