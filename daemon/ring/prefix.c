/* prefix.c: see prefix.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/ring/prefix.h"

#include "proto/message.h"

static size_t common(const struct prefix_entry *e, const int32_t *prompt, size_t n_prompt)
{
	size_t n = 0, most = e->n_computed < n_prompt ? e->n_computed : n_prompt;
	while (n < most && e->tokens[n] == prompt[n])
		n++;
	return n;
}

uint32_t prefix_common(const struct prefix_entry *e, const int32_t *prompt, size_t n_prompt)
{
	size_t n = n_prompt ? common(e, prompt, n_prompt) : 0;
	if (n && n == n_prompt)
		n--;
	return (uint32_t)(n - n % CHUNK_ROWS);
}

bool prefix_choose(const struct prefix_entry *entries, size_t n, const int32_t *prompt, size_t n_prompt, bool room, struct prefix_choice *out)
{
	bool found = false;
	uint64_t used = 0;
	for (size_t i = 0; i < n; i++) {
		const struct prefix_entry *e = &entries[i];
		uint32_t position = prefix_common(e, prompt, n_prompt);
		bool follows = e->idle && common(e, prompt, n_prompt) >= (e->n_asked < e->n_computed ? e->n_asked : e->n_computed);
		bool fork = !follows && (room || !e->idle);
		if (!position || (fork && !room))
			continue;
		bool better = !found || position > out->position ||
			      (position == out->position && (out->fork != fork ? out->fork : e->used > used));
		if (!better)
			continue;
		*out = (struct prefix_choice){.index = i, .position = position, .fork = fork};
		used = e->used;
		found = true;
	}
	return found;
}
