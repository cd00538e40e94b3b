#!/usr/bin/env bash
# The first hour with a GPU: checks, speed beside torch, memory, a training run. One folder of results.
#
#   benches/gpu/all.sh [--vitrum FILE] [--device cuda] [--output DIR] [--only STEP,…] [--data FOLDER] [--python FILE] [--tiny]
#
#   machine   card, driver, processor, versions
#   checks    vitrum checks
#   trace     every intermediate of ViT-Ti against the CPU
#   forward   images/s and memory, f32 and bf16, ViT-S and ViT-B (--models for others)
#   train     the same of training steps
#   torch     the same two in torch: eager and torch.compile, f32 (TF32) and bf16; needs torch and timm
#   memory    1,000 updates: what the allocator holds must not grow
#   learn     CIFAR-10 to the end; --data is a folder of `vitrum data split`, without it this step is left out
#
# The program is a release build with the feature (docs/gpu.md). It can be copied from another machine. No step takes more
# than nine minutes: it is stopped then. A step that fails does not end the others; the exit status is the number of those
# that failed. DIR/summary.md holds all tables. --tiny is for a rehearsal on --device cubecpu.

# Read as a whole before it runs, so that a newer copy of this file does not disturb it.
main() {
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
vitrum=$here/../../target/release/vitrum
device=cuda
output=gpu-results
only=machine,checks,trace,forward,train,torch,memory,learn
data=
python=python3
tiny=
limit=540
models="vit_small_patch16_224 vit_base_patch16_224"
forward_batches=1,8,64,256
train_batches=64,128
updates=1000
pictures=demo
runs="--runs 20 --warmup 5"
while [ $# -gt 0 ]; do
    case $1 in
    --vitrum) vitrum=$2; shift ;;
    --device) device=$2; shift ;;
    --output) output=$2; shift ;;
    --only) only=$2; shift ;;
    --data) data=$2; shift ;;
    --python) python=$2; shift ;;
    --models) models=$2; shift ;;
    --tiny) tiny=1 ;;
    -h | --help) sed -n '2,/^$/{ /^$/d; s/^# \{0,1\}//; p }' "$0"; exit 0 ;;
    *) echo "$0: unknown argument '$1' (see --help)" >&2; exit 2 ;;
    esac
    shift
done
if [ -n "$tiny" ]; then
    models=test_vit
    forward_batches=2
    train_batches=4
    updates=8
    pictures=demo:64
    runs="--runs 2 --warmup 1"
    limit=1800 # trying the forms of kernels takes long on a processor
fi
vitrum=$(realpath "$vitrum") || exit 2
[ -n "$data" ] && data=$(realpath "$data")
# Not through links: they lead out of a virtual environment.
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
mkdir -p "$output" && output=$(realpath "$output") || exit 2
cd "$output" || exit 2
failed=0
touch steps.tsv

# run NAME COMMAND…: the command's answer in NAME.txt, its talk in NAME.err, its end in steps.tsv
run() {
    local name=$1 began=$SECONDS status
    shift
    echo "$name" >&2
    timeout -k 10 "$limit" "$@" > "$name.txt" 2> "$name.err"
    status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" >> steps.tsv
    [ $status = 0 ] && return
    failed=$((failed + 1))
    echo "$name: exit status $status: $(grep -v '^$' "$name.err" | tail -n 1)" >&2
}

wants() { case ,$only, in *,$1,*) true ;; *) false ;; esac; }

describe() {
    nvidia-smi || echo "no nvidia-smi"
    nvcc --version 2>/dev/null | tail -n 2
    lscpu 2>/dev/null | grep -E 'Model name|^CPU\(s\)'
    "$vitrum" version
    date -u
}

against_cpu() {
    local model=vit_tiny_patch16_224
    [ -n "$tiny" ] && model=test_vit
    "$python" "$here/input.py" "$([ -n "$tiny" ] && echo 160 || echo 224)" input.safetensors &&
        "$vitrum" forward -m $model --input input.safetensors --trace --device cpu --output cpu.safetensors &&
        "$vitrum" forward -m $model --input input.safetensors --trace --device "$device" --output device.safetensors || return
    # Products in TF32 differ more.
    "$vitrum" checkpoint diff cpu.safetensors device.safetensors \
        --tolerance "$([ "$device" = cubecpu ] && echo 5e-6 || echo 5e-3)"
}

flat_memory() {
    rm -rf runs/classify/memory # of an earlier call
    "$vitrum" train "$pictures" -c demo --device "$device" --max-steps "$updates" --epochs 1000 --val-interval 1000 --log-interval 1 \
        --batch-size "$([ -n "$tiny" ] && echo 4 || echo 64)" --output runs --experiment memory &&
        "$python" "$here/memory.py" runs/classify/memory "$updates"
}

learn() {
    rm -rf runs/classify/cifar10
    if [ -n "$tiny" ]; then
        "$vitrum" train "$pictures" -c demo --device "$device" --max-steps 4 --batch-size 4 --output runs \
            --experiment cifar10
        return
    fi
    # The recipe has 200 epochs; these end within the step.
    "$vitrum" train "$data" -c cifar/cifar10_vit_tiny_patch4 --epochs 30 --warmup-epochs 3 --device "$device" \
        --amp-dtype bf16 --time 8min --output runs --experiment cifar10
}

export -f describe against_cpu flat_memory learn
export vitrum device python here tiny updates pictures data
# Less tuning fits into the hour; `full` or `balanced` may find faster kernels.
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}

wants machine && run machine bash -c describe
wants checks && run checks "$vitrum" checks --device "$device"
wants trace && run trace bash -c against_cpu
for precision in f32 bf16; do
    # shellcheck disable=SC2086
    wants forward && run "forward_$precision" "$vitrum" bench -m $models --device "$device" --precision $precision \
        --batch-sizes $forward_batches $runs
    # shellcheck disable=SC2086
    wants train && run "train_$precision" "$vitrum" bench -m $models --device "$device" --precision $precision --train \
        --batch-sizes $train_batches $runs
done
if wants torch; then
    case $device in
    cuda) peer=cuda ;;
    cuda:*) peer=cuda; export CUDA_VISIBLE_DEVICES=${device#cuda:} ;;
    *) peer=cpu ;;
    esac
    for precision in f32 bf16; do
        # shellcheck disable=SC2086
        run "torch_$precision" "$python" "$here/torch_peer.py" --models $models --device "$peer" \
            --precision $precision --forward $forward_batches --train $train_batches $([ -n "$tiny" ] && echo --tiny)
    done
fi
[ "${device#cuda:}" = "$device" ] || unset CUDA_VISIBLE_DEVICES
wants memory && run memory bash -c flat_memory
if wants learn && [ -z "$data$tiny" ]; then
    echo "learn: left out, there is no --data" >&2
elif wants learn; then
    run learn bash -c learn
fi

{
    echo "# vitrum on $device, $(date -u +%F)"
    echo
    echo "\`CUBECL_AUTOTUNE_LEVEL=$CUBECL_AUTOTUNE_LEVEL\`. Peak memory of vitrum is what its allocator holds at the end of a row."
    echo
    echo "| step | exit status | seconds |"
    echo "|---|---|---|"
    awk -F '\t' '{ last[$1] = "| " $1 " | " $2 " | " $3 " |"; if (!seen[$1]++) order[++n] = $1 } END { for (i = 1; i <= n; i++) print last[order[i]] }' steps.tsv
    cut -f 1 steps.tsv | awk '!seen[$0]++' | while read -r name; do
        printf '\n## %s\n\n' "$name"
        echo '```'
        tail -n 60 "$name.txt" | cut -c1-240
        awk -F '\t' -v name="$name" '$1 == name { status = $2 } END { exit status == 0 }' steps.tsv && tail -n 20 "$name.err"
        echo '```'
    done
} > summary.md
echo "$output/summary.md"
exit $failed
}

main "$@"
