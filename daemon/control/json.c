/* json.c: see json.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/control/json.h"

#include <stdlib.h>

/* For all documents at once: they are made and written within one call from the loop, so that no other is between. */
static bool ran_out;

static void *watched(void *memory)
{
	ran_out = ran_out || !memory;
	return memory;
}

static void *take(void *arg, size_t n)
{
	(void)arg;
	return watched(malloc(n));
}

static void *resize(void *arg, void *memory, size_t old, size_t n)
{
	(void)arg;
	(void)old;
	return watched(realloc(memory, n));
}

static void give_back(void *arg, void *memory)
{
	(void)arg;
	free(memory);
}

static const yyjson_alc watching = {take, resize, give_back, NULL};

yyjson_mut_doc *json_object(yyjson_mut_val **root)
{
	yyjson_mut_doc *doc = yyjson_mut_doc_new(&watching);
	*root = yyjson_mut_obj(doc);
	yyjson_mut_doc_set_root(doc, *root);
	return doc;
}

yyjson_mut_doc *json_copy(yyjson_doc *doc)
{
	return yyjson_doc_mut_copy(doc, &watching);
}

void json_lost(void)
{
	ran_out = true;
}

char *json_line(yyjson_mut_doc *doc, size_t *n)
{
	/* What others say may not be UTF-8. */
	char *text = yyjson_mut_write_opts(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &watching, n, NULL);
	bool whole = text && !ran_out;
	ran_out = false;
	yyjson_mut_doc_free(doc);
	if (whole)
		return text;
	free(text);
	return NULL;
}
