/* steward_renew, steward_new, leave: who may sign for the association, and no longer belonging to it. Shapes: doc/CONTROL.md.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "proto/text.h"

const char command_steward_remedy[] = N_("run this on the node where the association was made (it has keys/steward.key)");

/* The root key may have been brought back for this while the daemon runs: it is read, used and forgotten. */
void command_steward_renew(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	struct keys keys;
	char why[400] = "";
	int err = keys_load(d->home, &keys, why, sizeof why);
	if (err) {
		control_fail(r, err, NULL, "%s", why);
		return;
	}
	if (!keys.has_root || !d->keys.has_steward)
		control_fail(r, ERR_DENIED, keys.has_root ? command_steward_remedy : N_("copy the root key back to keys/root.key, renew, and take it away again"),
			     keys.has_root ? N_("this node has no steward key to renew") : N_("only the root key can renew the steward, and it is not here"));
	else if ((err = records_may_sign(d)))
		control_fail(r, err, N_("compare `date` here with another clock; if this one is right: essaim steward new"),
			     N_("the steward's record was signed in the future: this machine's clock is behind, or another was ahead"));
	else if ((err = records_renew_steward(d, keys.root_secret)))
		control_fail(r, err, NULL, "the steward key cannot be renewed: %s", err_str(err));
	else {
		yyjson_mut_val *root;
		yyjson_mut_doc *doc = json_object(&root);
		yyjson_mut_obj_add_uint(doc, root, "expires", daemon_now(d) + STEWARD_DAYS_MAX * 86400ull);
		control_done(r, doc);
	}
	keys_wipe(&keys);
}

/* A new key for the office, where the old one was lost or stolen. The root key is read, used and forgotten, as above. */
void command_steward_new(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	struct keys keys;
	struct records_renewed renewed = {.fresh = yyjson_get_bool(yyjson_obj_get(args, "fresh"))};
	char why[400] = "";
	int err = keys_load(d->home, &keys, why, sizeof why);
	if (err) {
		control_fail(r, err, NULL, "%s", why);
		return;
	}
	if (!keys.has_root) {
		control_fail(r, ERR_DENIED, N_("copy the root key to keys/root.key on this node, run this again, and take it away"),
			     N_("only the root key can name a new steward, and it is not here"));
	} else if ((err = keys_new_steward(d->home, &d->keys, why, sizeof why))) {
		control_fail(r, err, NULL, "%s", why);
	} else if ((err = records_sign_again(d, keys.root_secret, &renewed))) {
		control_fail(r, err, N_("run it again"), N_("the new steward key is not in force: %s"), err_str(err));
	} else {
		yyjson_mut_val *root;
		yyjson_mut_doc *doc = json_object(&root);
		yyjson_mut_obj_add_uint(doc, root, "expires", daemon_now(d) + STEWARD_DAYS_MAX * 86400ull);
		yyjson_mut_obj_add_uint(doc, root, "nodes", renewed.nodes);
		yyjson_mut_obj_add_uint(doc, root, "agreements", renewed.agreements);
		yyjson_mut_obj_add_uint(doc, root, "acceptances", renewed.acceptances);
		yyjson_mut_obj_add_uint(doc, root, "approvals", renewed.approvals);
		yyjson_mut_obj_add_uint(doc, root, "failed", renewed.failed);
		control_done(r, doc);
	}
	keys_wipe(&keys);
}

/* The node is to belong to nobody: its last card says that it has left, for its neighbours to end their links and for the steward to take it off the
 * roster; its own folder forgets the association. */
void command_leave(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	const char *named = yyjson_get_str(yyjson_obj_get(args, "association"));
	char name[NAME_SIZE];
	uint8_t none[KEY_BYTES] = {0};
	text_copy(name, sizeof name, trust_association_name(d->trust, d->keys.association));
	if (!memcmp(d->keys.association, none, KEY_BYTES) || d->left) {
		control_fail(r, ERR_UNKNOWN, NULL, N_("this node belongs to no association"));
		return;
	}
	if (!named || strcmp(named, name)) {
		control_fail(r, ERR_UNKNOWN, N_("name the association that is to be left"), N_("this node belongs to %s"), name);
		return;
	}
	if (d->keys.has_steward || !access("keys/root.key", F_OK)) {        /* the working folder is the home */
		control_fail(r, ERR_DENIED, N_("move keys/steward.key (and keys/root.key) to another node of the association first, and restart this one"),
			     N_("this node administers %s: without it nobody could invite, approve or agree"), name);
		return;
	}
	int err = records_leave(d);
	if (!err && ((unlink("keys/association") && errno != ENOENT) || (unlink("records/all") && errno != ENOENT)))
		err = -errno;
	if (err) {
		control_fail(r, err, N_("free some space, or mend the rights of the home folder, and run it again"), N_("this node cannot leave: %s"),
			     err_str(err));
		return;
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_strcpy(doc, root, "association_name", name);
	yyjson_mut_obj_add_bool(doc, root, "restart", true);
	control_done(r, doc);
}
