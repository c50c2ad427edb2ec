#!/bin/bash
# On a machine with a GPU and no network, from the checkout's root: everything within so many seconds.
#
#     bash tests/gpu/run.sh PARCEL OUT SECONDS [params file] [more arguments of lib run]
#
# PARCEL is what tests/gpu/parcel.py made, OUT the folder whose files come back (at most 8, of 16 MiB each):
# log, speed, page and notebooks, figures and tables, predictions, networks. JOBS notebooks run at a time (4),
# CORES processes read (all). CHECK=1 calibrates the plan check beside the studies; the tests of a step on a GPU run
# beside the import (TESTS=0: not). SPEED_S seconds after the run, and what is left, are for measuring the speed.
set -u
PARCEL=$1 OUT=$2 SECONDS_GIVEN=$3 PARAMS=${4:-params/openkbp-gpu.yaml}
shift $(($# < 4 ? $# : 4))
WORK=${WORK:-/tmp/gpu-work} CORES=${CORES:-$(nproc)} JOBS=${JOBS:-4} CHECK=${CHECK:-1} TESTS=${TESTS:-1}
SPEED_S=${SPEED_S:-0} PACK_S=${PACK_S:-15} PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD:$WORK/site JUPYTER_PATH=$WORK/site/share/jupyter PYTHONUNBUFFERED=1
mkdir -p "$WORK" "$OUT"
exec > >(tee -a "$OUT/log.txt") 2>&1
say() { echo "[$SECONDS s] $*"; }
pack() { kill $(jobs -p) 2>/dev/null; say "packing"; $PYTHON tests/gpu/pack.py "$OUT" "$PARAMS"; ls -l "$OUT"; }
trap pack EXIT  # also of a run that was cut off

if [ ! -e "$WORK/site" ]; then
    $PYTHON -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$WORK/site" "$PARCEL"/wheels/*.whl || exit 1
    say "packages installed"
fi
if [ "$TESTS" = 1 ]; then
    DOSE_FOLDER=. timeout -k 5 60 $PYTHON -m pytest -q --tb=short -o cache_dir="$WORK/pytest" tests/test_gpu.py &
    TESTS_PID=$!
fi
if [ ! -e outputs/cohorts/openkbp/card.json ]; then
    $PYTHON "$PARCEL/unpack.py" unpack "$PARCEL/patients" "$WORK/patients" || exit 1
    say "patients unpacked"
    $PYTHON -m lib import openkbp "$WORK/patients/provided-data" --workers "$CORES" || exit 1
    say "cohort imported"
fi
if [ -n "${TESTS_PID:-}" ]; then  # graphs are used where this card was seen to do right by them
    wait "$TESTS_PID" && say "a step tested" && export DOSE_CUDA_GRAPHS=1
    say "CUDA graphs: ${DOSE_CUDA_GRAPHS:-0}"
fi
nvidia-smi --query-gpu=name,memory.total,clocks.sm,clocks.max.sm,temperature.gpu --format=csv,noheader 2>/dev/null
RUN_S=$((SECONDS_GIVEN - SECONDS - PACK_S - SPEED_S))
MINUTES=$($PYTHON -c "print(round($RUN_S / 60, 3))")
FOLDER=outputs/$(sed -n 's/^experiment: *//p' "$PARAMS")
say "a run of $MINUTES minutes"
(while sleep 1; do
    echo "$SECONDS, $(nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits)"
done >"$WORK/busy.csv" 2>/dev/null) &
if [ "$CHECK" = 1 ]; then
    (for NAME in baseline baseline-seed43 refine; do
        until [ -e "$FOLDER/checkpoints/$NAME/weights.safetensors" ]; do sleep 1; done
    done
    $PYTHON -m lib check "$FOLDER" -p "sampled=[refine]" -p members=8 -p n_steps=10 2>"$WORK/check.txt"
    say "plan check calibrated: $?") &
fi
# lines of progress end in a carriage return
timeout -s INT -k 10 $((RUN_S + 10)) $PYTHON -m lib run "$PARAMS" --minutes "$MINUTES" --jobs "$JOBS" "$@" \
    2> >(tr '\r' '\n' | grep -v '%|' >&2)
say "run ended with $?"
cp "$WORK/busy.csv" "$FOLDER/results/gpu_busy.csv"
LEFT_S=$((SECONDS_GIVEN - SECONDS - PACK_S))
if [ "$LEFT_S" -gt 25 ]; then
    timeout -s INT -k 3 "$LEFT_S" $PYTHON -m lib run params/speed-gpu.yaml
    say "speed measured"
fi
