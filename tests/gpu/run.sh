#!/bin/bash
# On a machine with a GPU and no network, from the checkout's root: everything within so many seconds.
#
#     bash tests/gpu/run.sh PARCEL OUT SECONDS [params file] [more arguments of lib run]
#
# PARCEL is what tests/gpu/parcel.py made, OUT the folder whose files come back (at most 8, of 16 MiB each):
# log, speed, page and notebooks, figures and tables, predictions, the best network. JOBS notebooks run at a
# time (3), CORES processes read (all). Before the run SPEED_S seconds are for measuring the speed (80), TESTS_S
# for the tests of a step on a GPU (50); 0 leaves either out.
set -u
PARCEL=$1 OUT=$2 SECONDS_GIVEN=$3 PARAMS=${4:-params/openkbp-gpu.yaml}
shift $(($# < 4 ? $# : 4))
WORK=${WORK:-/tmp/gpu-work} CORES=${CORES:-$(nproc)} JOBS=${JOBS:-3} SPEED_S=${SPEED_S:-80} TESTS_S=${TESTS_S:-50} PACK_S=${PACK_S:-20}
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD:$WORK/site JUPYTER_PATH=$WORK/site/share/jupyter PYTHONUNBUFFERED=1
mkdir -p "$WORK" "$OUT"
exec > >(tee -a "$OUT/log.txt") 2>&1
say() { echo "[$SECONDS s] $*"; }
pack() { say "packing"; $PYTHON tests/gpu/pack.py "$OUT" "$PARAMS"; ls -l "$OUT"; }
trap pack EXIT  # also of a run that was cut off

$PYTHON -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$WORK/site" "$PARCEL"/wheels/*.whl || exit 1
say "packages installed"
if [ ! -e outputs/cohorts/openkbp/card.json ]; then
    $PYTHON "$PARCEL/unpack.py" unpack "$PARCEL/patients" "$WORK/patients" || exit 1
    say "patients unpacked"
    $PYTHON -m lib import openkbp "$WORK/patients/provided-data" --workers "$CORES" || exit 1
fi
say "cohort imported"
nvidia-smi --query-gpu=name,memory.total,clocks.sm,clocks.max.sm,temperature.gpu --format=csv,noheader 2>/dev/null
if [ "$TESTS_S" -gt 0 ]; then
    DOSE_FOLDER=. timeout -k 5 "$TESTS_S" $PYTHON -m pytest -q -p no:cacheprovider tests/test_gpu.py
    say "a step tested"
fi
if [ "$SPEED_S" -gt 0 ]; then
    timeout -s INT -k 10 "$SPEED_S" $PYTHON -m lib run params/speed-gpu.yaml
    say "speed measured"
fi
MINUTES=$(echo "scale=3; ($SECONDS_GIVEN - $SECONDS - $PACK_S) / 60" | bc 2>/dev/null ||
    $PYTHON -c "print(round(($SECONDS_GIVEN - $SECONDS - $PACK_S) / 60, 3))")
timeout -s INT -k 10 $((SECONDS_GIVEN - SECONDS - PACK_S + 10)) \
    $PYTHON -m lib run "$PARAMS" --minutes "$MINUTES" --jobs "$JOBS" "$@"
say "run ended with $?"
