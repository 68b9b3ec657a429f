#!/usr/bin/env bash
# Tokenizer, slots, fusion network, bundle: the chain that made weights/titok-ste-lite.
# DATA is the data root, OUT the run folder, DEMO=1 shortens every step to show that the chain works.
set -euo pipefail
: "${DATA:?data root}" "${OUT:?run folder}" "${PYTHON:=python}"
tokenizer=() fusion=() smooth=()
if [ "${DEMO:-}" = 1 ]; then
  tokenizer=(--set steps=60 --set validate_every=30 --set reseed_every=10)
  smooth=(--set schedule.steps_per_epoch=10 --set schedule.stage2_epochs=2 --set validate_epochs=2)
  fusion=(--set schedule.steps_per_epoch=10 --set schedule.stage1_epochs=1 --set schedule.stage2_epochs=3 --set validate_epochs=2)
fi
"$PYTHON" -m training tokenizer --data "$DATA" --out "$OUT/tokenizer" "${tokenizer[@]}"
"$PYTHON" -m training probe --tokenizer "$OUT/tokenizer" --data "$DATA" --out "$OUT/slots.json"
"$PYTHON" -m training titok-ste --data "$DATA" --tokenizer "$OUT/tokenizer" --slots "$OUT/slots.json" --out "$OUT/fusion" "${fusion[@]}"
"$PYTHON" -m training titok-ste --recipe titok-ste-lite-smooth --start-from "$OUT/fusion" --data "$DATA" --tokenizer "$OUT/tokenizer" --slots "$OUT/slots.json" --out "$OUT/smooth" "${smooth[@]}"
"$PYTHON" -m training export --tokenizer "$OUT/tokenizer" --run "$OUT/smooth" --out "$OUT/bundle/titok-ste-lite"
echo "the bundle is $OUT/bundle/titok-ste-lite; serve it with PAIRFUSE_WEIGHTS=$OUT/bundle"
