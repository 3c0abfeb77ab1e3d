/* render.c: see render.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/render.h"

#include <errno.h>
#include <llama.h>
#include <stdlib.h>
#include <string.h>

#include "engine/memory.h"
#include "engine/virtual.h"
#include "proto/err.h"

#define RENDERED_MAX (4u * RENDER_BYTES_MAX)     /* a template adds words to each message */

int render_load_vocabulary(struct llama_model **out, const struct source *source, const struct directory *d, char *why, size_t why_size)
{
	struct llama_model_params params = llama_model_default_params();
	struct layer_range all = { 0, d->n_layer };
	ggml_backend_dev_t none[] = { NULL };
	struct virtual_file file;
	FILE *stream = NULL;
	int err;

	*out = NULL;
	err = virtual_init(&file, source, d, all, VIRTUAL_TEXT, why, why_size);
	if (err)
		goto out;
	stream = virtual_open(&file);
	if (!stream) {
		err = -ENOMEM;
		goto out;
	}
	params.devices = none;
	params.vocab_only = true;
	params.load_mode = LLAMA_LOAD_MODE_NONE;
	memory_clear_error();
	*out = llama_model_load_from_file_ptr(stream, params);
	if (!*out) {
		err = file.err ? file.err : ERR_MODEL;
		snprintf(why, why_size, "the vocabulary cannot be loaded: %s", file.err ? file.why : memory_last_error());
	}
out:
	if (stream)
		fclose(stream);
	virtual_release(&file);
	return err;
}

/* Views to strings that libllama takes; one block of memory for all. */
static int copy_messages(const struct engine_render *render, struct llama_chat_message **out, char **text)
{
	size_t bytes = 0;
	char *at;

	for (size_t i = 0; i < render->n_messages; i++)
		bytes += render->messages[i].role_length + render->messages[i].content_length + 2;
	*out = calloc(render->n_messages, sizeof **out);
	*text = at = calloc(bytes ? bytes : 1, 1);
	if (!*out || !*text)
		return -ENOMEM;
	for (size_t i = 0; i < render->n_messages; i++) {
		const struct render_message *m = &render->messages[i];

		memcpy(at, m->role, m->role_length);
		(*out)[i].role = at;
		at += m->role_length + 1;
		memcpy(at, m->content, m->content_length);
		(*out)[i].content = at;
		at += m->content_length + 1;
	}
	return 0;
}

static int apply_template(const struct llama_model *model, const struct engine_render *render, struct buf *text, char *why, size_t why_size)
{
	const char *template = llama_model_chat_template(model, NULL);
	struct llama_chat_message *messages = NULL;
	char *strings = NULL;
	int32_t n;
	int err;

	if (!template || !template[0]) {
		snprintf(why, why_size, "the model has no chat template; ask it for a completion instead");
		return ERR_UNSUPPORTED;
	}
	err = copy_messages(render, &messages, &strings);
	if (err)
		goto out;
	n = llama_chat_apply_template(template, messages, render->n_messages, true, NULL, 0);
	if (n <= 0) {
		snprintf(why, why_size, "the model's chat template is not one that libllama can apply; ask it for a completion instead");
		err = ERR_UNSUPPORTED;
		goto out;
	}
	if (!buf_reserve(text, (size_t)n + 1)) {
		snprintf(why, why_size, "the conversation is too long");
		err = ERR_LIMIT;
		goto out;
	}
	if (llama_chat_apply_template(template, messages, render->n_messages, true, (char *)text->data, n + 1) != n)
		err = ERR_ENGINE;
	else
		buf_grow(text, (size_t)n);
out:
	free(messages);
	free(strings);
	return err;
}

static int tokenize(const struct llama_vocab *vocab, const char *text, size_t length, bool special, bool parse, struct buf *out,
		    char *why, size_t why_size)
{
	int32_t n = llama_tokenize(vocab, text, (int32_t)length, NULL, 0, special, parse);
	llama_token *tokens, bos = llama_vocab_bos(vocab);
	int32_t first = 0;
	int err = 0;

	if (n == INT32_MIN) {
		snprintf(why, why_size, "the text is too long");
		return ERR_LIMIT;
	}
	n = n < 0 ? -n : n;
	tokens = calloc(n ? (size_t)n : 1, sizeof *tokens);
	if (!tokens)
		return -ENOMEM;
	if (llama_tokenize(vocab, text, (int32_t)length, tokens, n, special, parse) != n) {
		snprintf(why, why_size, "the text cannot be made into tokens");
		err = ERR_ENGINE;
		goto out;
	}
	/* A template that writes the beginning token itself, and a vocabulary that adds one: once is enough. */
	if (special && parse && n >= 2 && bos >= 0 && tokens[0] == bos && tokens[1] == bos)
		first = 1;
	for (int32_t i = first; i < n && !err; i++) {
		uint8_t bytes[4];

		put_u32(bytes, (uint32_t)tokens[i]);
		err = buf_append(out, bytes, sizeof bytes);
		if (err)
			snprintf(why, why_size, "the text is too long");
	}
out:
	free(tokens);
	return err;
}

int render_tokens(const struct llama_model *model, const struct engine_render *render, struct buf *out, char *why, size_t why_size)
{
	const struct llama_vocab *vocab = llama_model_get_vocab(model);
	struct buf text;
	int err;

	buf_init(&text, RENDERED_MAX);
	if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
		snprintf(why, why_size, "the model has no vocabulary; only token ids can be given to it");
		err = ERR_UNSUPPORTED;
	} else if (render->n_messages == 0) {
		snprintf(why, why_size, "there is nothing to render");
		err = ERR_MALFORMED;
	} else if (!render->chat) {
		err = tokenize(vocab, render->messages[0].content, render->messages[0].content_length, render->add_special,
			       render->parse_special, out, why, why_size);
	} else {
		err = apply_template(model, render, &text, why, why_size);
		if (!err)
			err = tokenize(vocab, (const char *)text.data, text.length, true, true, out, why, why_size);
	}
	buf_release(&text);
	return err;
}

int render_piece(const struct llama_vocab *vocab, int32_t token, uint8_t *out, bool *end)
{
	int32_t n;

	*end = llama_vocab_is_eog(vocab, token);
	if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE)
		return 0;
	n = llama_token_to_piece(vocab, token, (char *)out, PIECE_MAX, 0, false);
	return n < 0 ? ERR_LIMIT : n;
}

int render_pieces(const struct llama_model *model, const uint8_t *tokens, size_t n, struct buf *out, char *why, size_t why_size)
{
	const struct llama_vocab *vocab = llama_model_get_vocab(model);
	int32_t n_vocab = llama_vocab_n_tokens(vocab);

	if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
		snprintf(why, why_size, "the model has no vocabulary, so its tokens have no text");
		return ERR_UNSUPPORTED;
	}
	for (size_t i = 0; i < n; i++) {
		int32_t token = (int32_t)get_u32(tokens + 4 * i), length;
		uint8_t piece[2 + PIECE_MAX];

		if (token >= n_vocab) {
			snprintf(why, why_size, "the model has tokens 0 to %d, and %d is none of them", n_vocab - 1, token);
			return ERR_MALFORMED;
		}
		length = llama_token_to_piece(vocab, token, (char *)piece + 2, PIECE_MAX, 0, true);
		if (length < 0) {
			snprintf(why, why_size, "a token's text is longer than %d bytes", PIECE_MAX);
			return ERR_LIMIT;
		}
		put_u16(piece, (uint16_t)length);
		if (buf_append(out, piece, 2 + (size_t)length)) {
			snprintf(why, why_size, "the tokens' text is too long");
			return ERR_LIMIT;
		}
	}
	return 0;
}
