/* invite, join, agreement_*, roster_*. Shapes: doc/CONTROL.md.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <arpa/inet.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"
#include "daemon/link/address.h"
#include "proto/text.h"


/* --- invitations ----------------------------------------------------------------------------------- */

/* Whether "host:port" is an IPv4 address that means something in one network only. Others are given the benefit of the doubt. */
static bool is_local(const char *address)
{
	char host[ADDRESS_HOST_SIZE];
	uint16_t port;
	struct in_addr ignored;
	return !address_split(address, host, &port) && inet_pton(AF_INET, host, &ignored) == 1 && !portmap_is_public(host);
}

void command_invite(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	const char *role = yyjson_get_str(yyjson_obj_get(args, "role"));
	yyjson_val *given = yyjson_obj_get(args, "addresses"), *value;
	uint64_t hours = yyjson_obj_get(args, "hours") ? yyjson_get_uint(yyjson_obj_get(args, "hours")) : 72;
	if (!role || (strcmp(role, "node") && strcmp(role, "partner"))) {
		control_fail(r, ERR_UNKNOWN, "essaim invite --partner, or essaim invite --node",
			     "is the invitation for another association (partner) or for a node of this one (node)?");
		return;
	}
	if (!d->keys.has_steward) {
		control_fail(r, ERR_DENIED, command_steward_remedy, "only a node with the steward key can invite");
		return;
	}
	if (!hours || hours > 24 * 30) {
		control_fail(r, ERR_LIMIT, NULL, "an invitation lasts 1 hour to 30 days");
		return;
	}
	struct invitation invitation = {.role = strcmp(role, "node") ? INVITATION_PARTNER : INVITATION_NODE};
	struct card_body card;
	uint64_t now = daemon_now(d);
	if (trust_card_of(d->trust, d->keys.node, now, &card)) {
		control_fail(r, ERR_BUSY, NULL, "this node has just started: try again in a second");
		return;
	}
	size_t index, max;
	yyjson_arr_foreach(given, index, max, value)
	{
		const char *address = yyjson_get_str(value);
		if (!address || strlen(address) >= ADDRESS_SIZE || !card_address_is_valid(address) || invitation.n_addresses == CARD_ADDRESSES_MAX) {
			control_fail(r, ERR_MALFORMED, NULL, "an address is written HOST:PORT, and there are at most %d", CARD_ADDRESSES_MAX);
			return;
		}
		text_copy(invitation.addresses[invitation.n_addresses++], ADDRESS_SIZE, address);
	}
	if (!invitation.n_addresses) {
		invitation.n_addresses = card.n_addresses;
		memcpy(invitation.addresses, card.addresses, sizeof invitation.addresses);
	}
	randombytes_buf(invitation.id, sizeof invitation.id);
	randombytes_buf(invitation.secret, sizeof invitation.secret);
	invitation_psk(invitation.secret, invitation.psk);
	memcpy(invitation.link_key, d->keys.link, KEY_BYTES);
	memcpy(invitation.node, d->keys.node, KEY_BYTES);
	memcpy(invitation.association, d->keys.association, KEY_BYTES);
	text_copy(invitation.name, sizeof invitation.name, trust_association_name(d->trust, d->keys.association));
	text_copy(invitation.network, sizeof invitation.network, d->config.network);
	invitation.expires = now + hours * 3600;
	char url[INVITATION_URL_MAX];
	int err = invitation_url(&invitation, url, sizeof url);
	if (!err)
		err = invitation_keep(d->home, &invitation);
	sodium_memzero(invitation.secret, sizeof invitation.secret);
	sodium_memzero(invitation.psk, sizeof invitation.psk);
	if (err) {
		control_fail(r, err, "free some space, or mend the rights of the home folder", "the invitation cannot be kept: %s", err_str(err));
		return;
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_strcpy(doc, root, "url", url);
	yyjson_mut_obj_add_strcpy(doc, root, "role", role);
	yyjson_mut_obj_add_uint(doc, root, "expires", invitation.expires);
	yyjson_mut_val *addresses = yyjson_mut_obj_add_arr(doc, root, "addresses");
	for (size_t i = 0; i < invitation.n_addresses; i++)
		yyjson_mut_arr_add_strcpy(doc, addresses, invitation.addresses[i]);
	bool local = !yyjson_arr_size(given);
	for (size_t i = 0; i < invitation.n_addresses; i++)
		local &= is_local(invitation.addresses[i]);
	if (local)
		control_say(doc, root, "hint", "these addresses are of a local network: from elsewhere they lead nowhere. Write [link] map_ports = yes into essaim.conf and reload, so "
			    "that the router is asked; or forward TCP port %u there by hand, and invite with --address HOST:%u", mesh_port(d->mesh), mesh_port(d->mesh));
	sodium_memzero(url, sizeof url);
	control_done(r, doc);
}

struct joining {
	struct daemon *daemon;
	struct control_request *request;
	struct invitation invitation;
};

/* The failure that says most: what a node of ours said before what a wire did. */
static const struct mesh_join_failure *telling(const struct mesh_join_failure *failures, size_t n)
{
	static const int order[] = {ERR_USED, ERR_EXPIRED, ERR_UNKNOWN, ERR_DENIED, ERR_CLOCK, ERR_VERSION, UV_ETIMEDOUT, UV_ECONNREFUSED};
	for (size_t i = 0; i < sizeof order / sizeof *order; i++)
		for (size_t k = 0; k < n; k++)
			if (failures[k].why == order[i])
				return &failures[k];
	return n ? &failures[0] : NULL;
}

static void say_remedy(yyjson_mut_doc *doc, yyjson_mut_val *error, const struct mesh_join_failure *f)
{
	const char *port = f ? strrchr(f->address, ':') : NULL;
	switch (f ? f->why : 0) {
	case ERR_USED:
	case ERR_EXPIRED:
	case ERR_UNKNOWN:
	case ERR_DENIED:
		control_say(doc, error, "remedy", "ask whoever invited you for a new invitation; this one has no more use");
		break;
	case ERR_CLOCK:
		control_say(doc, error, "remedy", "compare `date` on both machines; on the one that is wrong: timedatectl set-ntp true. The invitation is still good");
		break;
	case ERR_VERSION:
		control_say(doc, error, "remedy", "upgrade the older of the two nodes. The invitation is still good");
		break;
	case UV_ECONNREFUSED:
	case UV_ETIMEDOUT:
	case UV_EHOSTUNREACH:
	case UV_ENETUNREACH:
		control_say(doc, error, "remedy", "whoever invited you sees whether essaimd runs there, lets TCP port %s in (firewall; on a router, forwards it to that "
			    "machine: essaim doctor there says how), or invites you again with --address HOST:PORT. The invitation is still good", port ? port + 1 : "7740");
		break;
	default:
		control_say(doc, error, "remedy", "ask whoever invited you whether that is the right address and port (essaim status there), and for another "
			    "invitation with --address HOST:PORT");
	}
}

static void refuse_joining(struct joining *j, int err, const char *detail)
{
	yyjson_mut_val *error, *details;
	yyjson_mut_doc *doc = json_object(&error);
	size_t n;
	const struct mesh_join_failure *failures = mesh_join_failures(j->daemon->mesh, &n);
	yyjson_mut_obj_add_str(doc, error, "code", err_name(err));
	if (n)
		control_say(doc, error, "message", "joining failed");
	else
		control_say(doc, error, "message", "joining failed: %s", detail && *detail ? detail : err_str(err));
	say_remedy(doc, error, telling(failures, n));
	details = yyjson_mut_obj_add_arr(doc, error, "details");
	for (size_t i = 0; i < n; i++)
		control_say(doc, yyjson_mut_arr_add_obj(doc, details), "text", "%s: %s", failures[i].address, dialled_how(failures[i].why));
	control_refuse(j->request, doc);
}

static void on_joined(void *arg, int err, const char *detail)
{
	struct joining *j = arg;
	struct daemon *d = j->daemon;
	if (err) {
		refuse_joining(j, err, detail);
		free(j);
		return;
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	bool partner = j->invitation.role == INVITATION_PARTNER;
	if (!partner) {
		/* This node belongs to the inviter's association from now on. */
		char why[300] = "";
		err = records_take_over(d, j->invitation.association, why, sizeof why);
		if (err) {
			control_fail(j->request, err, NULL, "%s", why);
			yyjson_mut_doc_free(doc);
			free(j);
			return;
		}
	}
	yyjson_mut_obj_add_str(doc, root, "role", partner ? "partner" : "node");
	yyjson_mut_obj_add_str(doc, root, "association", json_hex(doc, j->invitation.association, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, root, "association_name", trust_association_name(d->trust, j->invitation.association));
	d->joined = !partner;
	yyjson_mut_obj_add_bool(doc, root, "restart", !partner);
	command_agreements_into(d, doc, yyjson_mut_obj_add_arr(doc, root, "agreements"));
	yyjson_mut_val *next = yyjson_mut_obj_add_arr(doc, root, "next");
	if (partner) {
		yyjson_mut_arr_add_str(doc, next, N_("read and accept what they offer: essaim agreement list, essaim agreement accept NAME"));
		yyjson_mut_arr_add_str(doc, next, N_("let them use your nodes too, if you like: essaim agreement offer NAME"));
	}
	records_changed(d);
	control_done(j->request, doc);
	free(j);
}

void command_join(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	const char *url = yyjson_get_str(yyjson_obj_get(args, "url"));
	char why[300] = "";
	struct joining *j = calloc(1, sizeof *j);
	if (!j || !url) {
		free(j);
		control_fail(r, ERR_MALFORMED, NULL, "which invitation? paste the whole essaim://join/#... address");
		return;
	}
	j->daemon = d;
	j->request = r;
	int err = invitation_parse(url, &j->invitation, why, sizeof why);
	if (!err && j->invitation.expires <= daemon_now(d)) {
		err = ERR_EXPIRED;
		snprintf(why, sizeof why, N_("this invitation has expired"));
	}
	if (!err && strcmp(j->invitation.network, d->config.network)) {
		err = ERR_DENIED;
		snprintf(why, sizeof why, "this invitation is for the network '%s'; this node is on '%s' ([mesh] network)", j->invitation.network,
			 d->config.network);
	}
	if (!err && !memcmp(j->invitation.node, d->keys.node, KEY_BYTES)) {
		err = ERR_DENIED;
		snprintf(why, sizeof why, N_("this invitation was made by this very node: use it on the other machine"));
	}
	if (!err && j->invitation.role == INVITATION_NODE && (d->keys.has_steward || d->keys.has_root)) {
		err = ERR_DENIED;
		snprintf(why, sizeof why, N_("this home is an association of its own; a node joins from a fresh home: essaim --home DIR init --joining"));
	}
	if (!err && j->invitation.role == INVITATION_PARTNER && !d->keys.has_steward) {
		err = ERR_DENIED;
		snprintf(why, sizeof why, N_("only the node with an association's steward key can join as a partner"));
	}
	if (!err && j->invitation.role == INVITATION_NODE && !sodium_is_zero(d->keys.association, KEY_BYTES) &&
	    memcmp(d->keys.association, j->invitation.association, KEY_BYTES)) {
		control_fail(r, ERR_DENIED, N_("make it leave that one first (essaim leave): the invitation is still good"), N_("this node belongs to %s"),
			     trust_association_name(d->trust, d->keys.association));
		free(j);
		return;
	}
	if (!err && j->invitation.role == INVITATION_NODE && d->joined) {
		control_fail(r, ERR_DENIED, N_("start it again first, and see where it belongs: the invitation is still good"),
			     N_("this node has joined an association and was not started again since"));
		free(j);
		return;
	}
	if (!err && (err = records_save_now(d))) {               /* before the invitation is used up */
		control_fail(r, err, N_("make room, then use the invitation: it is still good"), N_("%s/records cannot be written: %s"), d->home, err_str(err));
		free(j);
		return;
	}
	if (!err)
		err = mesh_join(d->mesh, &j->invitation, on_joined, j);
	if (err) {
		control_fail(r, err, "ask for a new invitation", "%s", why[0] ? why : err_str(err));
		free(j);
	}
}

/* --- agreements ------------------------------------------------------------------------------------ */

struct agreement_list {
	struct daemon *daemon;
	yyjson_mut_doc *doc;
	yyjson_mut_val *array;
	const char *name;              /* of the other side, where it is not known any more; NULL */
};

static const char *agreement_state(struct daemon *d, const struct record *record, const struct agreement_body *body)
{
	uint64_t now = daemon_now(d);
	if (body->revoked)
		return N_("revoked");
	if (record_is_current(record, now))
		return N_("expired");
	const struct record *accepted = trust_find(d->trust, RECORD_ACCEPTANCE, record->subject, record->association, now);
	struct acceptance_body acceptance;
	if (!accepted || acceptance_read(accepted, &acceptance) || memcmp(acceptance.agreement, record->hash, KEY_BYTES))
		return N_("offered");
	return acceptance.declined ? N_("declined") : N_("in force");
}

static bool on_agreement(const struct record *record, void *arg)
{
	struct agreement_list *l = arg;
	struct daemon *d = l->daemon;
	bool granted = !memcmp(record->association, d->keys.association, KEY_BYTES);
	bool received = !memcmp(record->subject, d->keys.association, KEY_BYTES);
	struct agreement_body body;
	if (!granted && !received)
		return true;
	int err = agreement_read(record, &body);
	if (err == -ENOMEM)
		json_lost();
	if (err)
		return true;
	const uint8_t *other = granted ? record->subject : record->association;
	const char *known = trust_association_name(d->trust, other), *name = !*known && l->name ? l->name : known;
	const char *state = agreement_state(d, record, &body);
	char time[32], tokens[40];
	static const char *const formats[2][2] = {
		{N_("we may use %s's nodes (any model, %s tokens and %s of computing a day)"),
		 N_("we may use %s's nodes (listed models, %s tokens and %s of computing a day)")},
		{N_("%s may use our nodes (any model, %s tokens and %s of computing a day)"),
		 N_("%s may use our nodes (listed models, %s tokens and %s of computing a day)")},
	};
	yyjson_mut_val *o = yyjson_mut_arr_add_obj(l->doc, l->array);
	yyjson_mut_obj_add_str(l->doc, o, "direction", granted ? "granted" : "received");
	yyjson_mut_obj_add_str(l->doc, o, "association", json_hex(l->doc, other, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(l->doc, o, "association_name", name);
	yyjson_mut_obj_add_str(l->doc, o, "state", state);
	yyjson_mut_val *models = yyjson_mut_obj_add_arr(l->doc, o, "models");
	for (size_t i = 0; i < body.n_models; i++)
		yyjson_mut_arr_add_str(l->doc, models, json_hex(l->doc, body.models[i], KEY_BYTES));
	yyjson_mut_obj_add_uint(l->doc, o, "tokens_per_day", body.tokens_per_day);
	yyjson_mut_obj_add_uint(l->doc, o, "stage_seconds_per_day", body.stage_seconds_per_day);
	yyjson_mut_obj_add_uint(l->doc, o, "priority", body.priority);
	yyjson_mut_obj_add_uint(l->doc, o, "expires", record->expires);
	if (body.revoked) {
		control_say(l->doc, o, "text", granted ? N_("%s may no longer use our nodes") : N_("we may no longer use %s's nodes"), name);
		return true;
	}
	control_say(l->doc, o, "text", formats[granted][body.n_models > 0], name, text_count(body.tokens_per_day, tokens, sizeof tokens),
		    text_duration(body.stage_seconds_per_day, time, sizeof time));
	return true;
}

void command_agreements_into(struct daemon *d, yyjson_mut_doc *doc, yyjson_mut_val *array)
{
	struct agreement_list l = {d, doc, array, NULL};
	trust_each(d->trust, RECORD_AGREEMENT, on_agreement, &l);
}

void command_agreement_list(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	command_agreements_into(arg, doc, yyjson_mut_obj_add_arr(doc, root, "agreements"));
	control_done(r, doc);
}

/* Answers with the agreement in that direction. name: the other side's, where it may be out of reach now; else NULL. */
static void done_with_agreement(struct daemon *d, struct control_request *r, const uint8_t *grantor, const uint8_t *grantee, const char *name)
{
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_val *array = yyjson_mut_arr(doc);
	struct agreement_list l = {d, doc, array, name};
	const struct record *record = trust_find(d->trust, RECORD_AGREEMENT, grantor, grantee, daemon_now(d));
	if (record)
		on_agreement(record, &l);
	yyjson_mut_val *agreement = yyjson_mut_arr_size(array) ? yyjson_mut_arr_remove_first(array) : yyjson_mut_obj(doc);
	yyjson_mut_obj_add_val(doc, root, "agreement", agreement);
	control_done(r, doc);
}

static uint64_t uint_or(yyjson_val *args, const char *key, uint64_t otherwise)
{
	yyjson_val *v = yyjson_obj_get(args, key);
	return v && yyjson_is_uint(v) ? yyjson_get_uint(v) : otherwise;
}

void command_agreement_offer(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t association[KEY_BYTES];
	if (command_find_association(d, r, args, association))
		return;
	struct agreement_body terms = {
		.tokens_per_day = uint_or(args, "tokens_per_day", OFFER_TOKENS),
		.stage_seconds_per_day = uint_or(args, "stage_seconds_per_day", OFFER_STAGE_SECONDS),
		.priority = (uint32_t)uint_or(args, "priority", OFFER_PRIORITY),
	};
	uint64_t days = uint_or(args, "days", OFFER_DAYS);
	if (terms.priority > 9 || !days || days > 3650) {
		control_fail(r, ERR_LIMIT, NULL, "priority is 0 to 9 and days 1 to 3650");
		return;
	}
	yyjson_val *models = yyjson_obj_get(args, "models"), *value;
	size_t index, max;
	yyjson_arr_foreach(models, index, max, value)
	{
		const char *name = yyjson_get_str(value);
		yyjson_mut_doc *one = yyjson_mut_doc_new(NULL);
		yyjson_mut_val *o = yyjson_mut_obj(one);
		yyjson_mut_doc_set_root(one, o);
		yyjson_mut_obj_add_str(one, o, "model", name ? name : "");
		yyjson_doc *fixed = yyjson_mut_doc_imut_copy(one, NULL);
		yyjson_mut_doc_free(one);
		int err = terms.n_models == AGREEMENT_MODELS_MAX ? ERR_LIMIT
								  : command_find_model(d, r, yyjson_doc_get_root(fixed), terms.models[terms.n_models]);
		yyjson_doc_free(fixed);
		if (err == ERR_LIMIT)
			control_fail(r, ERR_LIMIT, NULL, "an agreement lists at most %d models", AGREEMENT_MODELS_MAX);
		if (err)
			return;
		terms.n_models++;
	}
	int err = records_offer(d, association, &terms, (uint32_t)days);
	if (err)
		control_fail(r, err, err == ERR_DENIED ? command_steward_remedy : NULL, "the agreement cannot be offered: %s", err_str(err));
	else
		done_with_agreement(d, r, d->keys.association, association, NULL);
}

void command_agreement_accept(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t association[KEY_BYTES];
	if (command_find_association(d, r, args, association))
		return;
	int err = records_accept(d, association, yyjson_get_bool(yyjson_obj_get(args, "declined")));
	if (err == ERR_UNKNOWN)
		control_fail(r, err, "ask them to run: essaim agreement offer", "%s has offered nothing that is still open",
			     trust_association_name(d->trust, association));
	else if (err == ERR_CLOCK)
		control_fail(r, err, N_("compare `date` here and there; when both are right, they offer it again"),
			     N_("the agreement cannot be answered now: a record of yours or theirs was signed in the future, so a clock is or was wrong"));
	else if (err)
		control_fail(r, err, err == ERR_DENIED ? command_steward_remedy : NULL, "the agreement cannot be accepted: %s", err_str(err));
	else
		done_with_agreement(d, r, association, d->keys.association, NULL);
}

void command_agreement_revoke(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	uint8_t association[KEY_BYTES];
	if (command_find_association(d, r, args, association))
		return;
	const struct record *granted = trust_find(d->trust, RECORD_AGREEMENT, d->keys.association, association, daemon_now(d));
	if (!granted) {
		control_fail(r, ERR_UNKNOWN, "essaim agreement list", "nothing is granted to %s", trust_association_name(d->trust, association));
		return;
	}
	struct agreement_body terms = {.revoked = true};
	char name[NAME_SIZE];
	text_copy(name, sizeof name, trust_association_name(d->trust, association));
	int err = records_offer(d, association, &terms, 365);
	if (err)
		control_fail(r, err, err == ERR_DENIED ? command_steward_remedy : NULL, "the agreement cannot be revoked: %s", err_str(err));
	else
		done_with_agreement(d, r, d->keys.association, association, name);
}

/* --- roster ---------------------------------------------------------------------------------------- */

static int own_roster(struct daemon *d, struct control_request *r, struct roster_body *roster)
{
	const struct record *record = trust_find(d->trust, RECORD_ROSTER, d->keys.association, d->keys.association, daemon_now(d));
	if (record && !roster_read(record, roster))
		return 0;
	control_fail(r, ERR_UNKNOWN, "join an association, or renew the steward", "this node knows no current roster of its association");
	return ERR_UNKNOWN;
}

void command_roster_list(void *arg, struct control_request *r, yyjson_val *args)
{
	(void)args;
	struct daemon *d = arg;
	struct roster_body roster = {0};
	if (own_roster(d, r, &roster))
		return;
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_strcpy(doc, root, "association", trust_association_name(d->trust, d->keys.association));
	yyjson_mut_val *nodes = yyjson_mut_obj_add_arr(doc, root, "nodes");
	for (size_t i = 0; i < roster.n_nodes; i++) {
		char name[NAME_SIZE], association[NAME_SIZE];
		bool self = !memcmp(roster.nodes[i], d->keys.node, KEY_BYTES);
		views_describe(d, roster.nodes[i], name, association);
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, nodes);
		yyjson_mut_obj_add_str(doc, o, "node", json_hex(doc, roster.nodes[i], KEY_BYTES));
		yyjson_mut_obj_add_strcpy(doc, o, "name", name);
		yyjson_mut_obj_add_bool(doc, o, "self", self);
		yyjson_mut_obj_add_bool(doc, o, "up", self || mesh_is_up(d->mesh, roster.nodes[i]));
	}
	roster_free(&roster);
	control_done(r, doc);
}

void command_roster_remove(void *arg, struct control_request *r, yyjson_val *args)
{
	struct daemon *d = arg;
	struct roster_body roster = {0};
	const char *wanted = yyjson_get_str(yyjson_obj_get(args, "node"));
	size_t found = 0, at = 0;
	char name[NAME_SIZE] = "", association[NAME_SIZE], hex[2 * KEY_BYTES + 1];
	if (own_roster(d, r, &roster))
		return;
	for (size_t i = 0; wanted && i < roster.n_nodes; i++) {
		views_describe(d, roster.nodes[i], name, association);
		text_hex(roster.nodes[i], KEY_BYTES, hex);
		if (!strcmp(wanted, name) || (strlen(wanted) >= 8 && !strncmp(wanted, hex, strlen(wanted)))) {
			at = i;
			found++;
		}
	}
	if (found != 1) {
		control_fail(r, found ? ERR_AMBIGUOUS : ERR_UNKNOWN, "essaim roster list",
			     found ? N_("several nodes are called %s: give eight digits of the key") : N_("no node called %s is on the roster"), wanted ? wanted : "that");
		roster_free(&roster);
		return;
	}
	uint8_t removed[KEY_BYTES];
	memcpy(removed, roster.nodes[at], KEY_BYTES);
	views_describe(d, removed, name, association);
	memmove(roster.nodes[at], roster.nodes[at + 1], (roster.n_nodes - at - 1) * KEY_BYTES);
	int err = records_publish_roster(d, (const uint8_t(*)[KEY_BYTES])roster.nodes, roster.n_nodes - 1);
	roster_free(&roster);
	if (err) {
		control_fail(r, err, err == ERR_DENIED ? command_steward_remedy : NULL, "the roster cannot be changed: %s", err_str(err));
		return;
	}
	yyjson_mut_val *root;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_str(doc, root, "node", json_hex(doc, removed, KEY_BYTES));
	yyjson_mut_obj_add_strcpy(doc, root, "name", name);
	control_done(r, doc);
}
