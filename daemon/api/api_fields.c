/* The fields of a request: which are known where, and those about choosing tokens. A field that nobody knows is refused, so that a
 * misspelt one is not passed over; one that clients send and that can mean nothing here is; one that would mean something and is
 * not there yet is refused by name. doc/API.md lists all of them.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/api_internal.h"
#include "daemon/api/schema.h"
#include "proto/err.h"

int api_bad(struct api_error *e, const char *param, const char *text)
{
	api_error_set(e, 400, "invalid_request_error", "invalid_value", param, "%s: %s", param, text);
	return -1;
}

static int unsupported(struct api_error *e, const char *param, const char *text)
{
	api_error_set(e, 400, "invalid_request_error", "unsupported_parameter", param, "%s: %s", param, text);
	return -1;
}

int api_get_number(yyjson_val *root, const char *key, double low, double high, double otherwise, double *out, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	char text[80];
	*out = otherwise;
	if (!v || yyjson_is_null(v))
		return 0;
	if (!yyjson_is_num(v))
		return api_bad(e, key, "it must be a number");
	*out = yyjson_get_num(v);
	if (isfinite(*out) && *out >= low && *out <= high)
		return 0;
	snprintf(text, sizeof text, "it must lie between %g and %g", low, high);
	return api_bad(e, key, text);
}

int api_get_whole(yyjson_val *root, const char *key, uint32_t low, uint32_t high, uint32_t otherwise, uint32_t *out, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	char text[80];
	*out = otherwise;
	if (!v || yyjson_is_null(v))
		return 0;
	snprintf(text, sizeof text, "it must be a whole number between %u and %u", low, high);
	if (!yyjson_is_uint(v) || yyjson_get_uint(v) < low || yyjson_get_uint(v) > high)
		return api_bad(e, key, text);
	*out = (uint32_t)yyjson_get_uint(v);
	return 0;
}

int api_get_bool(yyjson_val *root, const char *key, bool *out, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	if (!v || yyjson_is_null(v))
		return 0;
	if (!yyjson_is_bool(v))
		return api_bad(e, key, "it must be true or false");
	*out = yyjson_get_bool(v);
	return 0;
}

/* --- which fields there are ------------------------------------------------------------------------------- */

enum { CHAT = API_CHAT, TEXT = API_COMPLETION, BOTH = CHAT | TEXT, EMBED = API_EMBEDDINGS, IN = API_TOKENIZE, OUT = API_DETOKENIZE };
enum use { HONOURED, MEANINGLESS, REFUSED };
static const struct known_field {
	const char *name;
	unsigned where;
	enum use use;
	const char *why;                     /* REFUSED: what to do */
} known_fields[] = {
	{"model", BOTH | EMBED | IN | OUT, HONOURED, NULL},
	{"messages", CHAT, HONOURED, NULL},
	{"prompt", TEXT, HONOURED, NULL},
	{"stream", BOTH, HONOURED, NULL},
	{"stream_options", BOTH, HONOURED, NULL},
	{"max_tokens", BOTH, HONOURED, NULL},
	{"max_completion_tokens", BOTH, HONOURED, NULL},
	{"temperature", BOTH, HONOURED, NULL},
	{"top_p", BOTH, HONOURED, NULL},
	{"top_k", BOTH, HONOURED, NULL},
	{"min_p", BOTH, HONOURED, NULL},
	{"repeat_penalty", BOTH, HONOURED, NULL},
	{"presence_penalty", BOTH, HONOURED, NULL},
	{"frequency_penalty", BOTH, HONOURED, NULL},
	{"logit_bias", BOTH, HONOURED, NULL},
	{"seed", BOTH, HONOURED, NULL},
	{"stop", BOTH, HONOURED, NULL},
	{"n", BOTH, HONOURED, NULL},
	{"best_of", TEXT, HONOURED, NULL},
	{"logprobs", BOTH, HONOURED, NULL},
	{"top_logprobs", CHAT, HONOURED, NULL},
	{"response_format", BOTH, HONOURED, NULL},
	{"grammar", BOTH, HONOURED, NULL},
	{"ignore_eos", BOTH, HONOURED, NULL},
	{"via", BOTH, HONOURED, NULL},
	{"tool_choice", CHAT, HONOURED, NULL},
	{"function_call", CHAT, HONOURED, NULL},
	{"modalities", CHAT, HONOURED, NULL},
	{"input", EMBED, HONOURED, NULL},
	{"encoding_format", EMBED, HONOURED, NULL},
	{"content", IN, HONOURED, NULL},
	{"add_special", IN, HONOURED, NULL},
	{"parse_special", IN, HONOURED, NULL},
	{"with_pieces", IN, HONOURED, NULL},
	{"tokens", OUT, HONOURED, NULL},
	/* clients send them; here they change nothing */
	{"user", BOTH | EMBED, MEANINGLESS, NULL},
	{"metadata", BOTH, MEANINGLESS, NULL},
	{"service_tier", BOTH, MEANINGLESS, NULL},
	{"parallel_tool_calls", CHAT, MEANINGLESS, NULL},
	{"safety_identifier", BOTH, MEANINGLESS, NULL},
	{"prompt_cache_key", BOTH, MEANINGLESS, NULL},
	{"prompt_cache_retention", BOTH, MEANINGLESS, NULL},
	{"cache_prompt", BOTH, MEANINGLESS, NULL},
	/* would mean something */
	{"tools", CHAT, REFUSED, "tools are not supported by this version of Essaim; say in a message what the model may do"},
	{"functions", CHAT, REFUSED, "functions are not supported by this version of Essaim; say in a message what the model may do"},
	{"audio", CHAT, REFUSED, "audio is not supported by this version of Essaim"},
	{"prediction", CHAT, REFUSED, "it is not supported by this version of Essaim"},
	{"reasoning_effort", CHAT, REFUSED, "it is not supported by this version of Essaim"},
	{"verbosity", CHAT, REFUSED, "it is not supported by this version of Essaim"},
	{"web_search_options", CHAT, REFUSED, "this node does not search the web"},
	{"store", CHAT, REFUSED, "nothing that is said is kept here"},
	{"suffix", TEXT, REFUSED, "it is not supported by this version of Essaim"},
	{"echo", TEXT, REFUSED, "it is not supported by this version of Essaim"},
	{"dimensions", EMBED, REFUSED, "an embedding has the model's own width here"},
};

static bool is_set(yyjson_val *v)
{
	return !yyjson_is_null(v) && !yyjson_is_false(v) && !(yyjson_is_ctn(v) && !unsafe_yyjson_get_len(v));
}

int api_check_fields(yyjson_val *root, enum api_kind kind, struct api_error *e)
{
	yyjson_val *key, *value;
	size_t i, n;
	yyjson_obj_foreach(root, i, n, key, value)
	{
		const struct known_field *field = NULL;
		for (size_t k = 0; k < sizeof known_fields / sizeof *known_fields && !field; k++)
			if ((known_fields[k].where & kind) && !strcmp(known_fields[k].name, yyjson_get_str(key)))
				field = &known_fields[k];
		if (!field) {
			api_error_set(e, 400, "invalid_request_error", "unknown_parameter", yyjson_get_str(key),
				      "%.60s: there is no such field here (doc/API.md lists them)", yyjson_get_str(key));
			return -1;
		}
		if (field->use == REFUSED && is_set(value))
			return unsupported(e, field->name, field->why);
	}
	return 0;
}

/* --- choosing tokens --------------------------------------------------------------------------------------- */

static int parse_bias(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *bias = yyjson_obj_get(root, "logit_bias"), *key, *value;
	size_t i, n;
	if (!bias || yyjson_is_null(bias))
		return 0;
	if (!yyjson_is_obj(bias) || yyjson_obj_size(bias) > LOGIT_BIAS_MAX)
		return api_bad(e, "logit_bias", "it must be an object of at most 1024 tokens' ids, each with a number between -100 and 100");
	q->bias = malloc(yyjson_obj_size(bias) * LOGIT_BIAS_BYTES + 1);
	if (!q->bias)
		return api_bad(e, "logit_bias", "out of memory");
	yyjson_obj_foreach(bias, i, n, key, value)
	{
		const char *text = yyjson_get_str(key);
		char *end;
		unsigned long id = strtoul(text, &end, 10);
		double by = yyjson_get_num(value);
		if (text[0] < '0' || text[0] > '9' || *end || id > INT32_MAX || strlen(text) != yyjson_get_len(key))
			return api_bad(e, "logit_bias", "each name must be a token's id (POST /tokenize tells them)");
		if (!yyjson_is_num(value) || !(by >= -100 && by <= 100))
			return api_bad(e, "logit_bias", "each value must be a number between -100 and 100");
		logit_bias_put(q->bias + i * LOGIT_BIAS_BYTES, (struct logit_bias){(int32_t)id, (float)by});
	}
	q->sampling.bias = q->bias;
	q->sampling.n_bias = yyjson_obj_size(bias);
	return 0;
}

/* OpenAI's two ways: of a chat a switch and a number, of a completion a number. */
static int parse_logprobs(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *v = yyjson_obj_get(root, q->chat ? "top_logprobs" : "logprobs");
	if (q->chat && api_get_bool(root, "logprobs", &q->logprobs, e))
		return -1;
	if (api_get_whole(root, q->chat ? "top_logprobs" : "logprobs", 0, TOP_LOGPROBS_MAX, 0, &q->sampling.top, e))
		return -1;
	if (q->chat && v && !yyjson_is_null(v) && !q->logprobs)
		return api_bad(e, "top_logprobs", "it goes with logprobs: true");
	if (!q->chat)
		q->logprobs = v && !yyjson_is_null(v);
	return 0;
}

static int parse_schema(yyjson_val *format, struct api_question *q, struct api_error *e)
{
	yyjson_val *wrapped = yyjson_obj_get(format, "json_schema"), *schema = yyjson_obj_get(wrapped, "schema"), *key, *value;
	size_t i, n;
	char why[300];
	if (!schema)
		return api_bad(e, "response_format", "json_schema must be an object with a schema");
	yyjson_obj_foreach(wrapped, i, n, key, value)
	{
		const char *name = yyjson_get_str(key);
		if (strcmp(name, "schema") && strcmp(name, "name") && strcmp(name, "description") && strcmp(name, "strict"))
			return api_bad(e, "response_format", "json_schema has name, description, schema and strict");
	}
	int err = schema_to_grammar(schema, &q->grammar, why, sizeof why);
	if (err)
		return err == ERR_UNSUPPORTED ? unsupported(e, "response_format", why) : api_bad(e, "response_format", why);
	return 0;
}

static int parse_format(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *format = yyjson_obj_get(root, "response_format"), *key, *value;
	const char *type = yyjson_get_str(yyjson_obj_get(format, "type"));
	size_t i, n;
	if (!format || yyjson_is_null(format))
		return 0;
	if (!type || (strcmp(type, "text") && strcmp(type, "json_object") && strcmp(type, "json_schema")))
		return api_bad(e, "response_format", "it must be an object whose type is text, json_object or json_schema");
	yyjson_obj_foreach(format, i, n, key, value)
		if (strcmp(yyjson_get_str(key), "type") && (strcmp(yyjson_get_str(key), "json_schema") || strcmp(type, "json_schema")))
			return api_bad(e, "response_format", "it has a type, and for json_schema a json_schema");
	if (!strcmp(type, "json_schema"))
		return parse_schema(format, q, e);
	if (!strcmp(type, "json_object") && schema_any_object(&q->grammar))
		return api_bad(e, "response_format", "out of memory");
	return 0;
}

static int parse_grammar(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *grammar = yyjson_obj_get(root, "grammar");
	char why[200];
	if (parse_format(root, q, e))
		return -1;
	if (grammar && !yyjson_is_null(grammar) && !(yyjson_is_str(grammar) && !yyjson_get_len(grammar))) {
		if (!yyjson_is_str(grammar))
			return api_bad(e, "grammar", "it must be a string (GBNF)");
		if (q->grammar.length)
			return api_bad(e, "grammar", "it does not go with response_format: one of the two says what may be answered");
		if (gbnf_check(yyjson_get_str(grammar), yyjson_get_len(grammar), why, sizeof why))
			return api_bad(e, "grammar", why);
		if (buf_append(&q->grammar, yyjson_get_str(grammar), yyjson_get_len(grammar)))
			return api_bad(e, "grammar", "out of memory");
	}
	if (q->grammar.length && q->sampling.ignore_end)
		return api_bad(e, "ignore_eos", "it does not go with a grammar, which says itself when the answer ends");
	q->sampling.grammar = (const char *)q->grammar.data;
	q->sampling.grammar_length = q->grammar.length;
	return 0;
}

static int parse_choices(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	yyjson_val *best = yyjson_obj_get(root, "best_of");
	if (api_get_whole(root, "n", 1, API_CHOICES_MAX, 1, &q->n_choices, e))
		return -1;
	if (best && !yyjson_is_null(best) && (!yyjson_is_uint(best) || yyjson_get_uint(best) != q->n_choices))
		return unsupported(e, "best_of", "it must be n: this node answers with all that it generates");
	return 0;
}

/* What must not be asked for in words that otherwise mean nothing. */
static int parse_tools(yyjson_val *root, struct api_error *e)
{
	static const char *const choices[] = {"tool_choice", "function_call"};
	yyjson_val *modalities = yyjson_obj_get(root, "modalities"), *one;
	size_t i, n;
	for (size_t k = 0; k < 2; k++) {
		yyjson_val *choice = yyjson_obj_get(root, choices[k]);
		if (choice && !yyjson_is_null(choice) && !yyjson_equals_str(choice, "none") && !yyjson_equals_str(choice, "auto"))
			return unsupported(e, choices[k], "tools are not supported by this version of Essaim");
	}
	if (modalities && !yyjson_is_null(modalities) && !yyjson_is_arr(modalities))
		return api_bad(e, "modalities", "it must be an array");
	if (!modalities || yyjson_is_null(modalities))
		return 0;
	yyjson_arr_foreach(modalities, i, n, one)
		if (!yyjson_equals_str(one, "text"))
			return unsupported(e, "modalities", "only text is supported");
	return 0;
}

int api_parse_sampling(yyjson_val *root, struct api_question *q, struct api_error *e)
{
	double temperature, top_p, min_p, repeat, presence, frequency;
	yyjson_val *seed = yyjson_obj_get(root, "seed");
	uint32_t top_k;
	if (api_get_number(root, "temperature", 0, 2, 1, &temperature, e) || api_get_number(root, "top_p", 0, 1, 1, &top_p, e) ||
	    api_get_number(root, "min_p", 0, 1, 0, &min_p, e) || api_get_whole(root, "top_k", 0, 1000000, 0, &top_k, e) ||
	    api_get_number(root, "repeat_penalty", 0.1, 10, 1, &repeat, e) || api_get_number(root, "presence_penalty", -2, 2, 0, &presence, e) ||
	    api_get_number(root, "frequency_penalty", -2, 2, 0, &frequency, e) || api_get_bool(root, "ignore_eos", &q->sampling.ignore_end, e) ||
	    parse_bias(root, q, e) || parse_logprobs(root, q, e) || parse_grammar(root, q, e) || parse_choices(root, q, e) ||
	    (q->chat && parse_tools(root, e)))
		return -1;
	if (seed && !yyjson_is_null(seed)) {
		if (!yyjson_is_int(seed))
			return api_bad(e, "seed", "it must be a whole number of 64 bits");
		q->has_seed = true;
		q->sampling.seed = (uint64_t)yyjson_get_sint(seed);
	}
	q->sampling.temperature = (float)temperature;
	q->sampling.top_p = (float)top_p;
	q->sampling.min_p = (float)min_p;
	q->sampling.top_k = (int32_t)top_k;
	q->sampling.repeat_penalty = (float)repeat;
	q->sampling.presence_penalty = (float)presence;
	q->sampling.frequency_penalty = (float)frequency;
	return 0;
}
