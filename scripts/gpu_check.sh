#!/usr/bin/env bash
# Everything that only a GPU can show, on a machine with a CUDA toolkit and a Python with torch; no network is used.
#
#   scripts/gpu_check.sh [STAGE...]     stages: build test processes sanitize bench; without one: all, each tolerant of
#                                       the last
#
# Writes gpu.json and gpu.log into OUT (default build/gpu_check). Finds nvcc by CUDACXX, PATH or /usr/local/cuda, torch
# by PYTHON (default python3; an environment .venv in the project comes first) or TORCH, headers by HEADERS (default
# gpu_headers, which scripts/gpu_prepare.sh makes) and the system's own. ARCHS="80 90" overrides the device's.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-build/gpu_check}
mkdir -p "$out"
log=$out/gpu.log
stages=("$@")
[ $# -gt 0 ] || { stages=(build test processes sanitize bench); rm -f "$out"/*.stage "$out/bench.json"; : >"$log"; }

say() { printf 'gpu_check: %s\n' "$*" | tee -a "$log"; }
die() { say "$*"; exit 1; }

# --- what is here
nvcc=${CUDACXX:-$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)}
[ -x "$nvcc" ] || die "expected a CUDA toolkit (nvcc in PATH, or CUDACXX), got none"
cuda=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
cuda_lib=$(for d in "$cuda/lib64" "$cuda/targets/x86_64-linux/lib"; do [ -e "$d/libcudart.so" ] && echo "$d" && break; done)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
torch=${TORCH:-$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null)}
[ -e "$torch/lib/libc10_cuda.so" ] || die "expected a torch with CUDA in $python (or TORCH=FOLDER), got \"$torch\""
headers=${HEADERS:-gpu_headers}
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
archs=${ARCHS:-${capability:-80 90}}
jobs=$(nproc)

gencode=()
for arch in $archs; do gencode+=("-gencode=arch=compute_$arch,code=sm_$arch"); done
includes=(-Iinclude -Itests)
for folder in "$torch/include" "$torch/include/torch/csrc/api/include" "$cuda/include" "$cuda/targets/x86_64-linux/include" \
              "$headers"; do
  [ -d "$folder" ] && includes+=(-isystem "$folder")
done
# Groups over NCCL need its headers and Gloo's.
group_headers=
for name in nccl.h gloo/algorithm.h; do
  for folder in "$torch"/../nvidia/*/include "$cuda/include" "$cuda/targets/x86_64-linux/include" "$headers" /usr/include none; do
    [ ! -e "$folder/$name" ] || break
  done
  case $folder in
    none) group_headers=none ;;
    /usr/include) ;;  # the compiler's own: as a flag it would hide what is before it
    *) includes+=(-isystem "$folder") ;;
  esac
done
abi=$(grep -ho '_GLIBCXX_USE_CXX11_ABI=[01]' "$torch/share/cmake/Torch/TorchConfig.cmake" | head -1)
cxx=("${CXX:-g++}" -std=c++20 -O2 -fopenmp -DFMT_HEADER_ONLY=1 "-D${abi:-_GLIBCXX_USE_CXX11_ABI=1}" -DALKN_TEST_ON_DEVICE
     -DALKN_PLAIN_GOLDEN "-DALKN_GOLDEN_DIR=\"$out/vectors\"" "${includes[@]}")
cuda_flags=(-std=c++17 -O3 -ccbin "${CXX:-g++}" --expt-relaxed-constexpr --ftz=false --prec-div=true --prec-sqrt=true
            "-Xcompiler=-D${abi:-_GLIBCXX_USE_CXX11_ABI=1}" "${gencode[@]}" "${includes[@]}")

# A LibTorch without the libraries that its CUDA part needs (as on a machine that only compiles) is linked without it:
# the programs then say that there is no GPU.
torch_libs=("-L$torch/lib" -ltorch_cpu -lc10 -lc10_cuda "-Wl,-rpath,$torch/lib")
if ! ldd "$torch/lib/libtorch_cuda.so" 2>/dev/null | grep -q 'not found'; then
  torch_libs+=(-Wl,--no-as-needed -ltorch_cuda -Wl,--as-needed)
else
  say "torch_cuda lacks libraries that it needs: the programs with LibTorch will find no GPU"
fi
for folder in "$torch"/../nvidia/*/lib; do [ -d "$folder" ] && torch_libs+=("-Wl,-rpath-link,$folder" "-Wl,-rpath,$folder"); done
cudart=("-L$cuda_lib" -lcudart "-Wl,-rpath,$cuda_lib")

sources=(include/alkn/cuda/alkn_cuda.cu tests/cuda/gpu/device_step.cu tests/cuda/gpu/library.cpp benchmarks/gpu_step.cpp
         tests/cuda/test_cuda_step.cpp tests/cuda/test_cuda_select.cpp tests/cuda/test_cuda_rows.cpp
         tests/cuda/test_cuda_host.cpp tests/cuda/gpu/main.cpp)
object() { echo "$out/$(basename "$1").o"; }

compile_one() {
  if [[ $1 == *.cu ]]; then
    "$nvcc" "${cuda_flags[@]}" -c "$1" -o "$(object "$1")"
  else
    "${cxx[@]}" -c "$1" -o "$(object "$1")"
  fi
}

stage_build() {
  "$python" - "$out/vectors" <<'EOF' || return 1
import gzip, pathlib, sys
to = pathlib.Path(sys.argv[1])
to.mkdir(parents=True, exist_ok=True)
for path in pathlib.Path("tests/golden/vectors").glob("*.json.gz"):
    (to / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
EOF
  local source failed=0 pids=()
  for source in "${sources[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.2; done
    compile_one "$source" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  [ $failed = 0 ] || return 1
  "${CXX:-g++}" -fopenmp -o "$out/gpu_kernels" "$out"/{device_step.cu,test_cuda_step.cpp,test_cuda_select.cpp}.o \
    "$out"/{test_cuda_rows.cpp,test_cuda_host.cpp,main.cpp}.o "${cudart[@]}" -lpthread &&
  "${CXX:-g++}" -fopenmp -o "$out/gpu_library" "$out"/{library.cpp,alkn_cuda.cu}.o "${torch_libs[@]}" "${cudart[@]}" &&
  "${CXX:-g++}" -fopenmp -o "$out/gpu_step" "$out"/{gpu_step.cpp,alkn_cuda.cu}.o "${torch_libs[@]}" "${cudart[@]}"
}

# Runs a program; 77 says that there is no device.
on_gpu() {
  timeout "$1" "${@:2}"
  local rc=$?
  case $rc in
    77) skipped=1 ;;
    124) echo "ran longer than $1 s" ;;
  esac
  return $rc
}

stage_test() {
  local rc=0
  on_gpu 120 "$out/gpu_kernels" -d yes || rc=$?
  on_gpu 120 "$out/gpu_library" -d yes || rc=$?
  return $rc
}

# One process with a GPU, and two where there are two GPUs.
stage_processes() {
  [ -z "$group_headers" ] && [[ " ${torch_libs[*]} " == *-ltorch_cuda* ]] ||
    { echo "skipped: expected the headers of NCCL and Gloo and a whole torch_cuda"; skipped=1; return 77; }
  [ -e "$out/alkn_cuda.cu.o" ] || compile_one include/alkn/cuda/alkn_cuda.cu || return 1
  "${cxx[@]}" -DUSE_C10D_GLOO -DUSE_C10D_NCCL -c tests/cuda/gpu/processes.cpp -o "$out/processes.cpp.o" &&
    "${CXX:-g++}" -fopenmp -o "$out/gpu_processes" "$out"/{processes.cpp,alkn_cuda.cu}.o "${torch_libs[@]}" \
      "${cudart[@]}" || return 1
  local gpus size rank rc=0 pids
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
  for size in 1 2; do
    [ "$size" = 1 ] || [ "$gpus" -ge "$size" ] || { echo "two processes: skipped, there is one GPU"; continue; }
    pids=()
    for ((rank = 0; rank < size; ++rank)); do
      RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=$size MASTER_ADDR=127.0.0.1 MASTER_PORT=$((29600 + size)) \
        timeout 120 "$out/gpu_processes" &
      pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || rc=$?; done
  done
  [ $rc != 77 ] || skipped=1
  return $rc
}

stage_sanitize() {
  local sanitizer rc=0 tool
  sanitizer=$(command -v compute-sanitizer || ls "$cuda/bin/compute-sanitizer" 2>/dev/null || true)
  [ -n "$sanitizer" ] || { echo "skipped: there is no compute-sanitizer"; skipped=1; return 77; }
  "$out/gpu_kernels" --list-tests >/dev/null || { skipped=1; return 77; }
  for tool in memcheck racecheck initcheck synccheck; do
    echo "== $tool"
    on_gpu 45 "$sanitizer" --tool "$tool" --error-exitcode 9 "$out/gpu_kernels" '[small]' || rc=$?
  done
  return $rc
}

stage_bench() { on_gpu 300 "$out/gpu_step" "$out/bench.json"; }

for stage in "${stages[@]}"; do
  declare -F "stage_$stage" >/dev/null || die "expected a stage of build, test, processes, sanitize, bench, got \"$stage\""
done
failed=0
for stage in "${stages[@]}"; do
  begin=$SECONDS
  skipped=
  "stage_$stage" > >(tee -a "$log") 2>&1
  rc=$?
  wait
  state=passed
  [ $rc = 0 ] || state=failed
  [ -z "$skipped" ] || state=skipped
  [ $state != failed ] || failed=1
  say "$stage: $state after $((SECONDS - begin)) s"
  printf '{"stage": "%s", "state": "%s", "seconds": %d, "exit": %d}\n' "$stage" "$state" $((SECONDS - begin)) $rc \
    >"$out/$stage.stage"
done

"$python" - "$out" "$("$nvcc" --version | tail -2 | head -1)" "$torch" "$archs" <<'EOF'
import json, pathlib, subprocess, sys
out = pathlib.Path(sys.argv[1])
try:
    device = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip()
except OSError:
    device = ""
version = pathlib.Path(sys.argv[3], "version.py")
report = {
    "device": device or None,
    "toolkit": sys.argv[2],
    "torch": next((line.split("'")[1] for line in version.read_text().splitlines() if line.startswith("__version__")), None),
    "archs": sys.argv[4].split(),
    "stages": [json.loads(p.read_text()) for p in sorted(out.glob("*.stage"), key=lambda p: p.stat().st_mtime)],
    "bench": json.loads((out / "bench.json").read_text()) if (out / "bench.json").exists() else None,
}
(out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
EOF
say "wrote $out/gpu.json and $log"
exit $failed
