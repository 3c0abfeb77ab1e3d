/* prefix.h: which of a tenant's sessions a new question may begin with, and how (DESIGN D2, D4). Pure.
 *
 * Only rows before the last common chunk boundary count, because results follow a chunk's shape; and the prompt's last token is always
 * computed, because its output is wanted. A session that nobody asks anything any more is taken over when the question holds all of what it
 * was asked: then it is its follow-up, or the same question again. Otherwise, as with a shared system prompt, what they have in
 * common is copied into a session of its own, so that the other conversation keeps its place.
 *
 * Who may share what is not decided here: only sessions of one API key, one model and one plan come in.
 * Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef RING_PREFIX_H
#define RING_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prefix_entry {
	const int32_t *tokens;          /* asked and answered, in order */
	size_t n_computed;              /* of them, every stage holds so many */
	size_t n_asked;                 /* of them, so many were its last question */
	bool idle;                      /* nobody asks it anything */
	uint64_t used;                  /* when; any clock */
};
struct prefix_choice {
	size_t index;                   /* of the entry */
	uint32_t position;              /* rows from here on are to be computed; a multiple of CHUNK_ROWS, never 0 */
	bool fork;                      /* copied, not taken over */
};

/* Rows that need not be computed anew; 0: none. */
uint32_t prefix_common(const struct prefix_entry *entry, const int32_t *prompt, size_t n_prompt);
/* The entry with the longest common beginning; among equals one to take over, then the one used last. room: another session may be
 * opened. False: there is nothing in common, or it would have to be copied and there is no room. */
bool prefix_choose(const struct prefix_entry *entries, size_t n, const int32_t *prompt, size_t n_prompt, bool room, struct prefix_choice *out);

#endif
