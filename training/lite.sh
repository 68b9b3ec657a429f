#!/usr/bin/env bash
# Tokenizer, slots, fusion network, bundle: the chain that made weights/titok-ste-lite.
# DATA is the data root, OUT the run folder. The same chain on drawn pairs, in minutes: python -m training demo
set -euo pipefail
: "${DATA:?data root}" "${OUT:?run folder}" "${PYTHON:=python}"
"$PYTHON" -m training tokenizer --data "$DATA" --out "$OUT/tokenizer"
"$PYTHON" -m training probe --tokenizer "$OUT/tokenizer" --data "$DATA" --out "$OUT/slots.json"
"$PYTHON" -m training titok-ste --data "$DATA" --tokenizer "$OUT/tokenizer" --slots "$OUT/slots.json" --out "$OUT/fusion"
"$PYTHON" -m training export --tokenizer "$OUT/tokenizer" --run "$OUT/fusion" --out "$OUT/bundle/titok-ste-lite"
echo "the bundle is $OUT/bundle/titok-ste-lite; serve it with PAIRFUSE_WEIGHTS=$OUT/bundle"
