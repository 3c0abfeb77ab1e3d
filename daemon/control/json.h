/* json.h: JSON documents for answers, made so that half of one is never taken for the whole.
 *
 * yyjson leaves out what it finds no memory for, and says so in a result that nobody can look at after each of a hundred calls. Documents made
 * here remember it together.
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef CONTROL_JSON_H
#define CONTROL_JSON_H

#include <stdbool.h>
#include <yyjson.h>

/* A document that is an empty object. Without memory NULL, and *root, too: yyjson's functions then do nothing. */
yyjson_mut_doc *json_object(yyjson_mut_val **root);
/* A copy to add to. doc may be NULL. */
yyjson_mut_doc *json_copy(yyjson_doc *doc);
/* Something that belongs into a document being made found no memory before it came there. */
void json_lost(void);
/* One line, heap, NUL behind its n bytes (n may be NULL); frees doc. NULL: memory ran out for it, or for anything of documents made here since the last time. */
char *json_line(yyjson_mut_doc *doc, size_t *n);

#endif
