#!/usr/bin/env bash
# Prepares a folder of headers for scripts/gpu_check.sh, to be carried to a machine without a network (about 10 MB):
# Catch2, fmt, Eigen, Gloo and nlohmann/json as they are installed here (scripts/setup installs them).
#
#   scripts/gpu_prepare.sh [FOLDER]     default: gpu_headers in the project
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-gpu_headers}
mkdir -p "$folder"
for part in catch2 fmt gloo nlohmann eigen3/Eigen; do
  found=
  for place in /usr/include /usr/local/include; do
    if [ -d "$place/$part" ]; then found=$place/$part; break; fi
  done
  if [ -z "$found" ]; then
    echo "gpu_prepare: expected the headers of $part under /usr/include, got none; run scripts/setup" >&2
    exit 1
  fi
  rm -rf "${folder:?}/$(basename "$part")"
  cp -rL "$found" "$folder/"
done
size=$(du -sm "$folder" | cut -f1)
if [ "$size" -ge 40 ]; then
  echo "gpu_prepare: expected less than 40 MB, got $size MB in $folder" >&2
  exit 1
fi
echo "gpu_prepare: $size MB in $folder; scripts/gpu_check.sh finds it there, or by HEADERS=FOLDER"
