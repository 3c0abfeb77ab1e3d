/* schema.h: a JSON Schema becomes a grammar (GBNF) that lets a model write nothing but JSON that conforms to it.
 *
 * A subset of JSON Schema 2020-12 (and what pydantic and zod write of earlier drafts); doc/API.md lists it. Whatever is not in
 * it is refused by name, never passed over. Every answer conforms to the schema; not every JSON that conforms can be answered:
 * properties come in the schema's order, and none that it does not name. Two exceptions, as elsewhere: of oneOf several may fit, and a key of
 * an object without `properties` may come twice.
 *
 * Pure. Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef API_SCHEMA_H
#define API_SCHEMA_H

#include <yyjson.h>

#include "proto/buf.h"
#include "proto/gbnf.h"

#define SCHEMA_DEPTH_MAX 32
#define SCHEMA_PROPERTIES_MAX 256    /* of one object */
#define SCHEMA_VALUES_MAX 1024       /* of one enum */
#define SCHEMA_REFS_MAX 128          /* different ones */
#define SCHEMA_RANGE_MAX 256         /* whole numbers between minimum and maximum */

/* Appends a grammar that passes gbnf_check(). 0, or an enum err with why, which names the place in the schema. */
int schema_to_grammar(yyjson_val *schema, struct buf *out, char *why, size_t why_size);
/* Any JSON object. */
int schema_any_object(struct buf *out);

#endif
