/* The table of commands, and what they share: arguments by name or key, JSON pieces.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdio.h>
#include <string.h>

#include "daemon/daemon.h"
#include "proto/text.h"

const struct control_command command_table[] = {
	{"status", command_status},
	{"doctor", command_doctor},
	{"api_key", command_api_key},
	{"pause", command_pause},
	{"resume", command_resume},
	{"peers", command_peers},
	{"ring", command_ring},
	{"disclosure", command_disclosure},
	{"invite", command_invite},
	{"join", command_join},
	{"agreement_offer", command_agreement_offer},
	{"agreement_accept", command_agreement_accept},
	{"agreement_revoke", command_agreement_revoke},
	{"agreement_list", command_agreement_list},
	{"roster_list", command_roster_list},
	{"roster_remove", command_roster_remove},
	{"steward_renew", command_steward_renew},
	{"steward_new", command_steward_new},
	{"leave", command_leave},
	{"model_add", command_model_add},
	{"model_list", command_model_list},
	{"model_pull", command_model_pull},
	{"model_remove", command_model_remove},
	{"model_clear", command_model_clear},
	{NULL, NULL},
};

const char *json_hex(yyjson_mut_doc *doc, const uint8_t *bytes, size_t n)
{
	char text[2 * KEY_BYTES + 1];
	text_hex(bytes, n, text);
	return doc ? unsafe_yyjson_mut_strncpy(doc, text, 2 * n) : NULL;
}

int command_find_model(struct daemon *d, struct control_request *r, yyjson_val *args, uint8_t model[KEY_BYTES])
{
	const char *name = yyjson_get_str(yyjson_obj_get(args, "model"));
	struct route_model known[ROUTE_MODELS_MAX];
	size_t found = 0, n = 0;
	if (!name) {
		control_fail(r, ERR_UNKNOWN, "essaim model list", "which model? give its name");
		return ERR_UNKNOWN;
	}
	/* Models that are not approved yet can be named here too (to pull them), so this looks at residencies, not at route's view. */
	for (size_t i = 0; i < d->n_models && n < ROUTE_MODELS_MAX; i++) {
		const struct manifest_body *m = store_manifest(d->store, d->models[i].model);
		struct route_model *k = &known[n];
		char hex[2 * KEY_BYTES + 1], full[2 * NAME_SIZE];
		uint64_t created;
		if (!m)
			continue;
		memcpy(k->id, d->models[i].model, KEY_BYTES);
		text_copy(k->name, sizeof k->name, m->name);
		views_publisher(d, k->id, k->association, &created);
		text_hex(k->id, KEY_BYTES, hex);
		snprintf(full, sizeof full, "%s@%s", k->name, k->association);
		if (!strcmp(name, k->name) || !strcmp(name, full) || (strlen(name) >= 8 && !strncmp(name, hex, strlen(name)))) {
			memcpy(model, k->id, KEY_BYTES);
			found++;
		}
		n++;
	}
	if (found == 1)
		return 0;
	int err = found ? ERR_AMBIGUOUS : ERR_UNKNOWN;
	control_fail(r, err, "essaim model list", found ? N_("several models are called %s: write %s@ASSOCIATION, or digits of the id")
							: N_("no model called %s is known here; '%s' may have been published by a node that this one does not hear yet"),
		     name, name);
	return err;
}

struct association_search {
	struct daemon *daemon;
	const char *name;
	size_t found;
	uint8_t *out;
};

static bool on_association(const struct record *record, void *arg)
{
	struct association_search *s = arg;
	char hex[2 * KEY_BYTES + 1];
	text_hex(record->association, KEY_BYTES, hex);
	if (!strcmp(s->name, trust_association_name(s->daemon->trust, record->association)) ||
	    (strlen(s->name) >= 8 && !strncmp(s->name, hex, strlen(s->name)))) {
		memcpy(s->out, record->association, KEY_BYTES);
		s->found++;
	}
	return true;
}

int command_find_association(struct daemon *d, struct control_request *r, yyjson_val *args, uint8_t association[KEY_BYTES])
{
	struct association_search s = {.daemon = d, .name = yyjson_get_str(yyjson_obj_get(args, "association")), .out = association};
	if (!s.name) {
		control_fail(r, ERR_UNKNOWN, "essaim agreement list", "which association? give its name");
		return ERR_UNKNOWN;
	}
	trust_each(d->trust, RECORD_ASSOCIATION, on_association, &s);
	if (s.found == 1)
		return 0;
	int err = s.found ? ERR_AMBIGUOUS : ERR_UNKNOWN;
	control_fail(r, err, "essaim agreement list",
		     s.found ? N_("several associations are called %s: give eight digits of its key") : N_("no association called %s is known here"), s.name);
	return err;
}
