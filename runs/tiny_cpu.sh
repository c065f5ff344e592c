#!/usr/bin/env bash
# The whole way in small, on two cores and in minutes: synthetic actors -> cold start -> GRPO -> evaluation -> labelling.
#
#   bash runs/tiny_cpu.sh FACEKIT [WORK]
#
# The models are random and tiny (omni/tiny.py, widths 16 to 64), so the answers are worth nothing; what it shows is that
# every part works with the next, and that GRPO learns: over three seeds the mean reward of the last quarter of the steps
# exceeds that of the first by MARGIN, else the script fails.
# FACEKIT is the converted ICT-FaceKit (README, "Where the data come from").
# Needs: pip install -e ".[train,actors]" and pip install --no-deps -r requirements/actors.txt
set -euo pipefail
cd "$(dirname "$0")/.."
facekit=$(realpath "$1") work=${2:-outputs/tiny_cpu}
MARGIN=0.2
mkdir -p "$work"
export OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1

part() {  # part NAME COMMAND...: run, and say how long it took
  local name=$1 start=$SECONDS
  shift
  "$@"
  echo "$name: $((SECONDS - start)) s" | tee -a "$work/times.txt"
}

actors() { python -m data actors --facekit "$facekit" --out "$work/corpus" --size 64 --workers 2 "$@"; }

part "train clips" env OMP_NUM_THREADS=1 bash -c "$(declare -f actors); facekit=$facekit work=$work; actors --split train --clips 48"
