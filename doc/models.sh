#!/bin/sh
# models.sh: doc/MODELS.md from the engine's own table (essaim-engine --list-architectures).
#
#   models.sh             compares what would be written with what is there: 1 when they differ
#   models.sh --write     writes it
#
# The engine is $ESSAIM_ENGINE, or engine/essaim-engine below the current folder.
#
# SPDX-License-Identifier: AGPL-3.0-or-later
set -eu
LC_ALL=C
export LC_ALL

engine=${ESSAIM_ENGINE:-engine/essaim-engine}
page=$(dirname "$0")/MODELS.md
list=$(mktemp)
new=$(mktemp)
trap 'rm -f "$list" "$new"' EXIT
trap 'exit 1' HUP INT TERM

"$engine" --list-architectures >"$list"
rings=$(awk -F'\t' '$2 == "rings"' "$list" | wc -l)
{
	cat <<END
# Which models can be split

Written by \`doc/models.sh --write\` from the table in \`engine/quirks.c\`; \`make check\` compares the two.

A model's architecture is what its file says as \`general.architecture\` (\`essaim model check FILE\` prints it).

- **in rings**: layers may lie on several nodes. Every token is the same as the whole model's, and no logit is off by more than
  1e-5 of the largest, with the same libllama, back end and kind of CPU on each side.
- **whole only**: the model runs on one node that has room for all of it. A ring is refused before anything is loaded, with the reason.

$rings of the $(wc -l <"$list") architectures below run in rings. An architecture that is not listed runs whole, if libllama knows it.
Also refused in rings, whatever the architecture: files with extra layers for predicting several tokens at once
(\`nextn_predict_layers\`). Where a file says layer by layer which of them carry a state instead of attention, or have no
feed-forward network, each shard holds layers of every kind: "anywhere" then means between such groups.

\`tests/peers/test_architectures.py\` compares this table with llama.cpp's own suite of tiny models (\`test-llama-archs\`, in Debian's
\`llama.cpp-tests\`): 131 models, 113 of them of architectures that run in rings. Each of those is cut at every legal place, alone and all
at once (\`essaim-engine --check FILE --every\`), with two sessions, prompts of 1, 7 and 64 tokens that shards compute in parts of changing
size, and going back; all are bit-identical.
Their two layers are stacked to 3 to 24 first. These models are of 32-bit floats and have random weights; what depends on a layer count was
looked for at 32, 40 and 46 layers, and at 64 for about half of them. \`tests/peers/test_quantisations.py\` does the same for F32, F16, BF16, Q8_0, Q4_0, Q4_K,
Q6_K, IQ4_XS and MXFP4, and for a file in three parts, with llama.cpp's own \`llama-quantize\`.

Models whose layers carry a state (mamba, falcon-h1, jamba, lfm2, qwen3next, granitehybrid and the like) cannot forget their last
positions: they answer NEED_REPLAY, and the ring sends the text again. All others can, sliding windows too.

| architecture | | where it may be cut, or why it may not |
|---|---|---|
END
	awk -F'\t' '{
		note = $3
		if ($2 == "rings" && note == "")
			note = "anywhere"
		printf "| `%s` | %s | %s |\n", $1, $2 == "rings" ? "in rings" : "whole only", note
	}' "$list"
} >"$new"

if [ "${1:-}" = --write ]; then
	cat "$new" >"$page"
elif ! diff -u "$page" "$new" >&2; then
	echo "models.sh: $page is not what the engine says; run doc/models.sh --write" >&2
	exit 1
else
	echo "models.sh: $rings architectures in rings, as the engine says"
fi
