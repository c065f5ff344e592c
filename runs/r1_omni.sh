#!/usr/bin/env bash
# R1-Omni as published, on GPUs: released HumanOmni-0.5B -> cold start -> GRPO -> the table of docs/evaluation.md.
#
#   bash runs/r1_omni.sh HUMANOMNI BERT EMER MAFW DFEW RAVDESS [WORK]
#
# HUMANOMNI is the downloaded folder of HumanOmni-0.5B, BERT that of bert-base-uncased (for its word list), the others
# the corpora as their owners distribute them; EMER holds the unpacked clips of MER2023 or MER2024 beside the reasons.
# Each part continues where an earlier run stopped.
# Needs: pip install -e ".[train]", and GPUS of 24 GB or more (GPUS=8 as in the paper).
#
# Not run by us in full: there was no GPU and no licence for the corpora where this was written. Its parts are tested
# with small models and miniatures of the corpora (tests/test_released.py, tests/test_grpo.py, tests/test_corpora.py).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${6:?usage: bash runs/r1_omni.sh HUMANOMNI BERT EMER MAFW DFEW RAVDESS [WORK]}"
humanomni=$1 bert=$2 emer=$3 mafw=$4 dfew=$5 ravdess=$6 work=${7:-outputs/r1_omni}
gpus=${GPUS:-8}
mkdir -p "$work"
export HF_HUB_OFFLINE=1

part() {  # part NAME COMMAND...: run, and say how long it took
  local name=$1 start=$SECONDS
  shift
  "$@"
  echo "$name: $((SECONDS - start)) s" | tee -a "$work/times.txt"
}

# 1. corpora -> manifests
part "EMER" python -m data emer --root "$emer" --out "$work/emer.jsonl"
part "MAFW, train" python -m data mafw --root "$mafw" --out "$work/mafw_train.jsonl" --fold 1 --split train
part "MAFW, test" python -m data mafw --root "$mafw" --out "$work/mafw_test.jsonl" --fold 1 --split test
part "DFEW, train" python -m data dfew --root "$dfew" --out "$work/dfew_train.jsonl" --fold 1 --split train
part "DFEW, test" python -m data dfew --root "$dfew" --out "$work/dfew_test.jsonl" --fold 1 --split test
part "RAVDESS" python -m data ravdess --root "$ravdess" --out "$work/ravdess.jsonl"

# 2. the released base -> a model folder of ours; its prompts as in each stage
[ -e "$work/base/config.json" ] ||
  part "import" omni import "$humanomni" "$work/base" --bert "$bert" --layout cold_start --fit pad

# 3. cold start (EMER-SFT): reasons, 5 epochs, 16 rows a step, lr 2e-5
part "cold start" torchrun --nproc_per_node "$gpus" train_sft.py --config configs/sft_default.yaml \
  --train "$work/emer.jsonl" --labels mer6 --model "$work/base" --features "$work/features" \
  --output_dir "$work/cold_start" --align_epochs 0 --full true --reasoned 1 --labelled 0 --plain 0 --misread 0 \
  --prosody_only 0 --words 0 --blind 0 --mute 0 --nothing 0 --num_train_epochs 5 \
  --per_device_train_batch_size $((16 / gpus)) --learning_rate 2e-5 --lr_scheduler_type cosine \
  --warmup_steps 0.03 --weight_decay 0 --save_steps 50

# 4. GRPO: labels only, the paper's setting (configs/r1_omni.yaml)
part "GRPO" torchrun --nproc_per_node "$gpus" train_grpo.py --config configs/r1_omni.yaml \
  --train "$work/mafw_train.jsonl" "$work/dfew_train.jsonl" --model "$work/cold_start" \
  --features "$work/features" --output_dir "$work/grpo" --resume_from_checkpoint true
omni report "$work/grpo"

# 5. the table: base, cold start and GRPO on the three test sets
for test in dfew_test mafw_test ravdess; do
  part "evaluation, $test" omni eval "$work/$test.jsonl" --out "$work/eval_$test" \
    --model "$work/base" --model "$work/cold_start" --model "$work/grpo"
done
