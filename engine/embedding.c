/* embedding.c: see embedding.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "engine/embedding.h"

#include <errno.h>
#include <ggml.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quirks.h"
#include "proto/err.h"

int embedding_rows(const struct directory *d, const struct source *source, const int32_t *tokens, size_t n, float *out, char *why,
		   size_t why_size)
{
	const struct directory_tensor *t = directory_tensor(d, "token_embd.weight");
	const struct ggml_type_traits *traits = ggml_get_type_traits((enum ggml_type)t->type);
	const struct quirk *quirk = quirk_find(d->architecture);
	size_t row = ggml_row_size((enum ggml_type)t->type, t->ne[0]);
	uint8_t *bytes = malloc(row);
	int err = bytes ? 0 : -ENOMEM;

	if (!err && t->type != GGML_TYPE_F32 && !traits->to_float) {
		snprintf(why, why_size, "the embedding's type %s cannot be widened", traits->type_name);
		err = ERR_UNSUPPORTED;
	}
	for (size_t i = 0; i < n && !err; i++) {
		float *to = out + i * d->n_embd;

		if (tokens[i] < 0 || (uint32_t)tokens[i] >= d->n_vocab) {
			snprintf(why, why_size, "a token id is outside the vocabulary of %u", d->n_vocab);
			err = ERR_MALFORMED;
			break;
		}
		err = source_read(source, t->file, t->offset + row * (uint32_t)tokens[i], bytes, row, why, why_size);
		if (err)
			break;
		if (t->type == GGML_TYPE_F32)
			memcpy(to, bytes, row);
		else
			traits->to_float(bytes, to, d->n_embd);
		if (quirk && quirk->scaled) {
			float scale = sqrtf((float)d->n_embd);

			for (uint32_t k = 0; k < d->n_embd; k++)
				to[k] *= scale;
		}
	}
	free(bytes);
	return err;
}
