#!/bin/sh
# greedy.sh MODEL.gguf: what llama-completion (llama.cpp-tools) says at temperature 0 to the prompts below, one line each:
# the prompt, a tab, the text that follows; line feeds are written \n. Tests compare Essaim's own answer with it.
# The prompts are such that no choice on the way is nearly a tie, which two programs may round apart.
set -eu
while IFS= read -r prompt; do
	[ -n "$prompt" ] || continue
	text=$(printf '%b_' "$prompt")
	# -no-cnv: the prompt as it stands; it is printed first, and "[end of text]" after an end of turn.
	out=$(llama-completion -m "$1" -no-cnv --temp 0 -t 1 -n 96 --no-display-prompt --no-warmup -p "${text%_}" 2>/dev/null </dev/null |
		sed 's/ \[end of text\]//' | sed -e :a -e '$!{N;ba' -e '}' -e 's/\n*$//' -e 's/\n/\\n/g')
	printf '%s\t%s\n' "$prompt" "$out"
done <<'PROMPTS'
<|im_start|>user\nWhat is a stage?<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nQu'est-ce qu'un anneau ?<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nHow do I invite a peer?<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nQui voit mon texte ?<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nTell me a story about a cat with Alice.<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nRaconte-moi une histoire sur une bibliothèque avec Paul.<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n<|im_start|>assistant\n
<|im_start|>user\nCombien ça coûte ?<|im_end|>\n<|im_start|>assistant\n
In Bath, Alice had a grey cat named Pepper.
PROMPTS
