#!/bin/sh
# train.sh: makes the demonstration models again, from nothing, and resumes where it was interrupted.
#
#   contrib/demo-model/train.sh [BUILD]
#   SCALE=0.01 contrib/demo-model/train.sh [BUILD]      the same with a hundredth of the steps, to try it in minutes
#
# Run it in a Debian testing root (contrib/quickstart's, for one) where packages.txt is installed; BUILD (default:
# build/ beside this script) keeps the checkpoints. /proc must be mounted, or PyTorch takes its slowest kernels.
# README.md says how long it takes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$here/build}
scale=${SCALE:-1}
mkdir -p "$build"
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1

# PyTorch calls whatever libblas.so.3 is: take OpenBLAS, in the build that obeys OMP_NUM_THREADS.
if [ "$(id -u)" = 0 ]; then
	arch=$(gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)
	for lib in libblas.so.3 liblapack.so.3 libopenblas.so.0; do
		choice=$(update-alternatives --list "$lib-$arch" 2>/dev/null | grep openblas-openmp | head -n 1) || choice=
		[ -z "$choice" ] || update-alternatives --set "$lib-$arch" "$choice" >/dev/null
	done
fi

cd "$here"
[ -e tokenizer.json ] || python3 tokenizer.py train tokenizer.json
python3 train.py target --dir "$build" --scale "$scale"
python3 train.py draft --dir "$build" --scale "$scale"
python3 export.py target "$build/target.ckpt" essaim-demo.gguf
python3 export.py draft "$build/draft.ckpt" essaim-demo-draft.gguf
[ "$scale" = 1 ] || exit 0                              # a short course's models are not worth measuring

# shellcheck disable=SC2046
cc -O2 probe.c $(pkg-config --cflags --libs llama) -lm -o "$build/probe"
cd eval
python3 check.py "$build/probe" ../essaim-demo.gguf
python3 accept.py "$build/probe" ../essaim-demo.gguf ../essaim-demo-draft.gguf
python3 stories.py "$build/probe" ../essaim-demo.gguf
python3 coherence.py "$build/probe" ../essaim-demo.gguf
python3 memory.py "$build/probe" ../essaim-demo.gguf
python3 loss.py "$build/probe" ../essaim-demo.gguf ../essaim-demo-draft.gguf
