/* essaimd --init: a new home folder: keys, configuration, the association's first records. Prints one JSON object for the command line,
 * which asks the questions and says the result in plain words.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <yyjson.h>

#include "daemon/daemon.h"
#include "daemon/trust/records_file.h"
#include "proto/text.h"

#define DAY_S 86400u

struct init_options {
	const char *association, *name, *memory;
	bool joining;                     /* no association of its own: it will join one */
	size_t n_settings;
	const char *settings[64];         /* "section.key=value" */
};

static int fail(const char *code, const char *message)
{
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_bool(doc, root, "ok", false);
	yyjson_mut_val *error = yyjson_mut_obj_add_obj(doc, root, "error");
	yyjson_mut_obj_add_str(doc, error, "code", code);
	yyjson_mut_obj_add_str(doc, error, "message", message);
	char *text = json_line(doc, NULL);
	puts(text ? text : "{\"ok\": false}");
	free(text);
	return 1;
}

static int make_folder(const char *path, char *why, size_t size)
{
	char parent[4096];
	if (text_copy(parent, sizeof parent, path)) {
		snprintf(why, size, "the path is too long");
		return ERR_LIMIT;
	}
	for (char *p = parent + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		mkdir(parent, 0755);            /* what is really wrong shows at the last one */
		*p = '/';
	}
	if (mkdir(path, 0700) && errno != EEXIST) {
		int err = -errno;
		snprintf(why, size, "%s cannot be made: %s", path, strerror(errno));
		return err;
	}
	return 0;
}

/* The first three records of an association: itself, its steward for 90 days, a roster with this node. */
static int first_records(const char *home, const char *name, const struct keys *keys, char *why, size_t size)
{
	uint64_t now = (uint64_t)time(NULL);
	struct record head = {.sequence = now * 1000, .issued = now};
	memcpy(head.association, keys->association, KEY_BYTES);
	memcpy(head.subject, keys->association, KEY_BYTES);
	struct association_body association = {0};
	struct steward_body steward;
	struct roster_body roster = {.n_nodes = 1, .nodes = (uint8_t(*)[KEY_BYTES])keys->node};
	text_copy(association.name, sizeof association.name, name);
	memcpy(steward.steward, keys->steward, KEY_BYTES);

	struct buf record, all;
	buf_init(&record, RECORD_MAX);
	buf_init(&all, 4 * RECORD_MAX);
	head.kind = RECORD_ASSOCIATION;
	head.expires = now + 3650ull * DAY_S;
	int err = association_sign(&record, &head, &association, keys->root_secret);
	if (!err)
		err = records_file_append(&all, record.data, record.length);
	buf_clear(&record);
	head.kind = RECORD_STEWARD;
	head.expires = now + STEWARD_DAYS_MAX * DAY_S;
	if (!err)
		err = steward_sign(&record, &head, &steward, keys->root_secret);
	if (!err)
		err = records_file_append(&all, record.data, record.length);
	buf_clear(&record);
	head.kind = RECORD_ROSTER;
	if (!err)
		err = roster_sign(&record, &head, &roster, keys->steward_secret);
	if (!err)
		err = records_file_append(&all, record.data, record.length);
	if (!err)
		err = records_file_write(home, all.data, all.length);
	if (err)
		snprintf(why, size, "the association's first records cannot be written: %s", err_str(err));
	buf_release(&record);
	buf_release(&all);
	return err;
}

static int write_config(const char *home, const struct init_options *o, char *why, size_t size)
{
	struct buf text;
	buf_init(&text, 64 << 10);
	buf_printf(&text, "; This node's configuration. Keys that are not here have the defaults of essaim.conf(5).\n");
	const char *section = "";
	for (const struct config_key *k = config_schema; k->section; k++) {
		const char *value = NULL;
		char full[128];
		int n = snprintf(full, sizeof full, "%s.%s=", k->section, k->name);
		for (size_t i = 0; i < o->n_settings; i++)
			if (!strncmp(o->settings[i], full, (size_t)n))
				value = o->settings[i] + n;
		if (!strcmp(full, "node.name="))
			value = o->name;
		if (!strcmp(full, "share.memory=") && o->memory)
			value = o->memory;
		if (!value || !*value)
			continue;
		if (strcmp(section, k->section))
			buf_printf(&text, "\n[%s]\n", k->section);
		section = k->section;
		buf_printf(&text, "; %s\n%s = %s\n", k->help, k->name, value);
	}
	int err = keys_write_file(home, "essaim.conf", text.data, text.length, why, size);
	buf_release(&text);
	struct config check;
	char path[4096];
	snprintf(path, sizeof path, "%s/essaim.conf", home);
	if (!err && (err = config_load(path, &check, why, size)))
		unlink(path);
	return err;
}

static int check_settings(const struct init_options *o, char *why, size_t size)
{
	for (size_t i = 0; i < o->n_settings; i++) {
		char section[64], name[64], unknown[300];
		int n = 0;
		if (sscanf(o->settings[i], "%63[^.=\n].%63[^=\n]%n", section, name, &n) != 2 || o->settings[i][n] != '=' || strchr(o->settings[i], '\n')) {
			snprintf(why, size, "--set %s: it is written SECTION.KEY=VALUE, with a key of essaim.conf(5)", o->settings[i]);
			return ERR_CONFIG;
		}
		if (!config_find(section, name, unknown, sizeof unknown)) {
			snprintf(why, size, "--set %s: %s", o->settings[i], unknown);
			return ERR_CONFIG;
		}
	}
	return 0;
}

int init_run(const char *home, int argc, char **argv)
{
	static const struct option options[] = {
		{"association", required_argument, NULL, 'a'}, {"name", required_argument, NULL, 'n'}, {"memory", required_argument, NULL, 'm'},
		{"joining", no_argument, NULL, 'j'}, {"set", required_argument, NULL, 's'}, {NULL, 0, NULL, 0},
	};
	struct init_options o = {0};
	char why[1024] = "", conf[4096];
	int option;
	optind = 0;
	char *args[80] = {"essaimd --init"};
	int n = 1;
	for (int i = 0; i < argc && n < 79; i++)
		args[n++] = argv[i];
	while ((option = getopt_long(n, args, "+", options, NULL)) != -1) {
		switch (option) {
		case 'a':
			o.association = optarg;
			break;
		case 'n':
			o.name = optarg;
			break;
		case 'm':
			o.memory = optarg;
			break;
		case 'j':
			o.joining = true;
			break;
		case 's':
			if (o.n_settings < 64)
				o.settings[o.n_settings++] = optarg;
			break;
		default:
			return fail("EINVAL", "essaimd --init takes --association NAME or --joining, --name NAME, --memory SIZE, --set SECTION.KEY=VALUE");
		}
	}
	if (!o.joining && (!o.association || !text_is_name(o.association)))
		return fail("EINVAL", "an association needs a name: 1 to 63 characters, without / or @");
	if (!o.name || !text_is_name(o.name))
		return fail("EINVAL", "a node needs a name: 1 to 63 characters, without / or @");
	snprintf(conf, sizeof conf, "%s/essaim.conf", home);
	if (!access(conf, F_OK))
		return fail("EEXIST", "this home folder has been set up before: nothing was changed (choose another --home, or remove it by hand)");
	if (check_settings(&o, why, sizeof why) || make_folder(home, why, sizeof why))
		return fail("ECONFIG", why);

	struct keys keys;
	if (keys_create(home, !o.joining, &keys, why, sizeof why))
		return fail("EKEYS", why);
	int err = o.joining ? 0 : first_records(home, o.association, &keys, why, sizeof why);
	if (!err)
		err = write_config(home, &o, why, sizeof why);      /* last: its presence says that all is there */
	char node_hex[2 * KEY_BYTES + 1], association_hex[2 * KEY_BYTES + 1];
	text_hex(keys.node, KEY_BYTES, node_hex);
	text_hex(keys.association, KEY_BYTES, association_hex);
	keys_wipe(&keys);
	if (err)
		return fail(err_name(err), why);

	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_bool(doc, root, "ok", true);
	yyjson_mut_val *result = yyjson_mut_obj_add_obj(doc, root, "result");
	yyjson_mut_obj_add_str(doc, result, "home", home);
	yyjson_mut_obj_add_str(doc, result, "node", node_hex);
	yyjson_mut_obj_add_str(doc, result, "name", o.name);
	if (!o.joining) {
		yyjson_mut_obj_add_str(doc, result, "association", association_hex);
		yyjson_mut_obj_add_str(doc, result, "association_name", o.association);
		yyjson_mut_obj_add_str(doc, result, "root_key", "keys/root.key");
	}
	yyjson_mut_obj_add_str(doc, result, "api_key_file", "keys/api.key");
	char *text = json_line(doc, NULL);
	puts(text ? text : "{\"ok\": true}");
	free(text);
	return 0;
}
