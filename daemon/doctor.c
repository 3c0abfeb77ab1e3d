/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "daemon/control/json.h"
#include "daemon/link/address.h"
#include "daemon/route/routing.h"
#include "proto/err.h"
#include "proto/template.h"
#include "proto/text.h"

#define GIB (1ull << 30)

static void keep_value(void *arg, const char *value)
{
	struct doctor_text *t = arg;
	char *at = t->values;
	for (size_t i = 0; i < t->n_values; i++)
		at += strlen(at) + 1;
	if (!text_copy(at, sizeof t->values - (size_t)(at - t->values), value))
		t->n_values++;
	else
		t->format = NULL;               /* too long: it is said in English */
}

static void say(struct doctor_text *t, const char *format, va_list ap)
{
	va_list copy;
	*t = (struct doctor_text){.format = format};
	va_copy(copy, ap);
	vsnprintf(t->text, sizeof t->text, format, copy);
	va_end(copy);
	t->text[text_utf8_whole(t->text, strlen(t->text))] = 0;          /* it may have been cut */
	if (template_values(format, ap, keep_value, t))
		t->format = NULL;
}

void doctor_remedy(struct doctor_list *list, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	if (list->n && !list->full)
		say(&list->checks[list->n - 1].remedy, format, ap);
	va_end(ap);
}

void doctor_add(struct doctor_list *list, const char *name, enum doctor_state state, const char *remedy, const char *format, ...)
{
	va_list ap;
	list->full = list->n == DOCTOR_CHECKS_MAX;
	if (list->full)
		return;
	struct doctor_check *c = &list->checks[list->n++];
	c->name = name;
	c->state = state;
	va_start(ap, format);
	say(&c->text, format, ap);
	va_end(ap);
	c->remedy = (struct doctor_text){.format = remedy};
	text_copy(c->remedy.text, sizeof c->remedy.text, remedy ? remedy : "");
}

bool doctor_is_bad(const struct doctor_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		if (list->checks[i].state == DOCTOR_BAD)
			return true;
	return false;
}

/* As control_say() does it; this must work without a daemon, too. */
static void text_into(yyjson_mut_doc *doc, yyjson_mut_val *o, const char *key, const char *template, const char *values, const struct doctor_text *t)
{
	const char *value = t->values;
	yyjson_mut_obj_add_str(doc, o, key, t->text);
	if (!t->format)
		return;
	yyjson_mut_obj_add_str(doc, o, template, t->format);
	yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, o, values);
	for (size_t i = 0; i < t->n_values; i++, value += strlen(value) + 1)
		yyjson_mut_arr_add_str(doc, list, value);
}

char *doctor_json(const struct doctor_list *list)
{
	static const char *const states[] = {"good", "skipped", "warning", "bad"};
	yyjson_mut_val *root, *checks;
	yyjson_mut_doc *doc = json_object(&root);
	yyjson_mut_obj_add_bool(doc, root, "ok", !doctor_is_bad(list));
	checks = yyjson_mut_obj_add_arr(doc, root, "checks");
	for (size_t i = 0; i < list->n; i++) {
		const struct doctor_check *c = &list->checks[i];
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, checks);
		yyjson_mut_obj_add_str(doc, o, "check", c->name);
		yyjson_mut_obj_add_str(doc, o, "state", states[c->state]);
		text_into(doc, o, "text", "template", "values", &c->text);
		text_into(doc, o, "remedy", "remedy_template", "remedy_values", &c->remedy);
	}
	return json_line(doc, NULL);
}

void doctor_disk(struct doctor_list *list, const char *home, uint64_t free_bytes, uint64_t wanted)
{
	char has[16], needs[16];
	text_bytes(free_bytes, has, sizeof has);
	text_bytes(wanted, needs, sizeof needs);
	if (free_bytes < wanted)
		doctor_add(list, "disk", DOCTOR_BAD, "make room, or share less memory so that fewer layers come here ([share] memory)",
			   "%s has %s free, and %s of weights are still to come", home, has, needs);
	else if (free_bytes - wanted < GIB / 4)
		doctor_add(list, "disk", DOCTOR_BAD, "make room: records and the ledger are written there, too", "%s has %s free", home, has);
	else if (free_bytes - wanted < GIB)
		doctor_add(list, "disk", DOCTOR_WARNING, "make room soon", "%s has %s free, and %s of weights are still to come", home, has, needs);
	else
		doctor_add(list, "disk", DOCTOR_GOOD, NULL, "%s has %s free", home, has);
}

void doctor_memory(struct doctor_list *list, uint64_t total, uint64_t available, uint64_t budget, uint64_t used)
{
	char shared[16], has[16], left[16];
	text_bytes(budget, shared, sizeof shared);
	text_bytes(total, has, sizeof has);
	text_bytes(available, left, sizeof left);
	uint64_t more = budget > used ? budget - used : 0;
	if (budget > total)
		doctor_add(list, "memory", DOCTOR_BAD, "write a smaller [share] memory into essaim.conf, then reload (kill -HUP, or systemctl reload essaimd)",
			   "%s are shared, and this machine has %s", shared, has);
	else if (more > available)
		doctor_add(list, "memory", DOCTOR_WARNING, "end what else runs here, or write a smaller [share] memory into essaim.conf",
			   "%s are shared, but only %s are free now for what is not loaded yet", shared, left);
	else
		doctor_add(list, "memory", DOCTOR_GOOD, NULL, "%s shared of %s, %s free now", shared, has, left);
}

static int by_off(const void *a, const void *b)
{
	int64_t x = ((const struct doctor_clock *)a)->off, y = ((const struct doctor_clock *)b)->off;
	return x < y ? -1 : x > y;
}

static uint64_t distance(int64_t a, int64_t b)
{
	return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

void doctor_clocks(struct doctor_list *list, const struct doctor_clock *clocks, size_t n, int synchronized)
{
	static const char *const remedy = N_("set it by NTP: timedatectl set-ntp true");
	char text[40];
	if (!n) {
		if (synchronized == 0)
			doctor_add(list, "clock", DOCTOR_WARNING, remedy, "no other node to compare with, and the system says that its clock is not synchronized");
		else
			doctor_add(list, "clock", synchronized > 0 ? DOCTOR_GOOD : DOCTOR_SKIPPED, NULL,
				   synchronized > 0 ? N_("no other node to compare with; the system says that its clock is synchronized")
						    : N_("no other node to compare with"));
		return;
	}
	struct doctor_clock *sorted = malloc(n * sizeof *sorted);
	if (!sorted)
		return;
	memcpy(sorted, clocks, n * sizeof *sorted);
	qsort(sorted, n, sizeof *sorted, by_off);
	int64_t middle = sorted[n / 2].off;
	size_t agree = 0;
	for (size_t i = 0; i < n; i++)
		agree += distance(sorted[i].off, middle) < DOCTOR_CLOCK_WARNING_S;
	uint64_t off = distance(middle, 0);
	text_duration(off, text, sizeof text);
	enum doctor_state state = off < DOCTOR_CLOCK_WARNING_S ? DOCTOR_GOOD : off < DOCTOR_CLOCK_BAD_S ? DOCTOR_WARNING : DOCTOR_BAD;
	if (state == DOCTOR_GOOD)
		doctor_add(list, "clock", state, NULL, "agrees with %zu of %zu other nodes", agree, n);
	else if (n == 1)
		doctor_add(list, "clock", state, "compare `date` here with another clock; on the machine that is wrong: timedatectl set-ntp true",
			   middle > 0 ? N_("%s's clock is %s ahead of ours, and there is no third to say which is wrong")
				      : N_("%s's clock is %s behind ours, and there is no third to say which is wrong"), sorted[0].name, text);
	else
		doctor_add(list, "clock", state, remedy, middle > 0 ? N_("this machine's clock is %s behind those of %zu of %zu other nodes")
								    : N_("this machine's clock is %s ahead of those of %zu of %zu other nodes"), text, agree, n);
	for (size_t i = 0; i < n && state == DOCTOR_GOOD; i++) {
		uint64_t other = distance(sorted[i].off, 0);
		if (other < DOCTOR_CLOCK_WARNING_S)
			continue;
		text_duration(other, text, sizeof text);
		doctor_add(list, "clock", DOCTOR_WARNING, "tell who runs it: timedatectl set-ntp true there",
			   sorted[i].off > 0 ? N_("%s's clock is %s ahead of ours and the others'") : N_("%s's clock is %s behind ours and the others'"),
			   sorted[i].name, text);
	}
	free(sorted);
}

void doctor_versions(struct doctor_list *list, const char *own, const struct doctor_version *peers, size_t n)
{
	size_t differ = 0, known = 0;
	const struct doctor_version *first = NULL;
	if (!*own) {
		doctor_add(list, "versions", DOCTOR_SKIPPED, NULL, "no engine has run here since the start, so there is nothing to compare");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		known += *peers[i].engine != 0;
		if (!*peers[i].engine || routing_engines_join(peers[i].engine, own))
			continue;
		differ++;
		first = first ? first : &peers[i];
	}
	if (differ)
		doctor_add(list, "versions", DOCTOR_WARNING, "upgrade together: a ring joins only nodes whose engines are the same",
			   "%zu of %zu other nodes run another engine: %s has '%s', here it is '%s'", differ, known, first->name, first->engine, own);
	else
		doctor_add(list, "versions", DOCTOR_GOOD, NULL, known ? N_("engine %s, as on the other nodes") : N_("engine %s"), own);
}

void doctor_gpu(struct doctor_list *list, const struct doctor_gpu *gpu)
{
	if (!gpu->wanted && gpu->node)
		doctor_add(list, "gpu", DOCTOR_SKIPPED, "to use it, install mesa-vulkan-drivers and libggml0-backend-vulkan, write [share] gpu = auto into essaim.conf and "
			   "restart essaimd (doc/OPERATING.md, \"A graphics card\")", "a graphics card is there (%s), and nothing of Essaim uses it", gpu->node);
	else if (gpu->wanted && gpu->node && !gpu->may_open)
		doctor_add(list, "gpu", DOCTOR_BAD, "run `usermod -aG render,video USER` for the user that runs essaimd (a service: essaim), and restart it", "%s may not be opened by this user", gpu->node);
	else if (gpu->any && !gpu->node)
		doctor_add(list, "gpu", DOCTOR_BAD, "a service sees the card after `contrib/quickstart install` was run with [share] gpu set (the unit's PrivateDevices and "
			   "DeviceAllow); otherwise its driver or its firmware package is missing: `dmesg | grep -i drm`", "[share] gpu = auto, and /dev/dri has no card");
	else if (gpu->wanted && gpu->node)
		doctor_add(list, "gpu", DOCTOR_GOOD, NULL, "%s may be opened", gpu->node);
}

/* --- reach ----------------------------------------------------------------------------------------- */

/* Whether any who was asked reaches one kind of port; *any: somebody dialled it. */
static bool is_reached(const struct doctor_reached *asked, size_t n, bool weights, bool *any)
{
	bool reached = false;
	*any = false;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; !asked[i].err && k < asked[i].answer.n_results; k++)
			if (asked[i].answer.results[k].weights == weights) {
				*any = true;
				reached |= !asked[i].answer.results[k].code;
			}
	return reached;
}

/* And each address for itself, with how it went. */
static void tell(struct doctor_list *list, const struct doctor_reached *asked, size_t n, bool weights, const char *(*how)(int why))
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; !asked[i].err && k < asked[i].answer.n_results; k++) {
			const struct reach_result *r = &asked[i].answer.results[k];
			if (r->weights == weights)
				doctor_add(list, weights ? "weights" : "links", r->code ? DOCTOR_SKIPPED : DOCTOR_GOOD, NULL, "%s from %s: %s", r->address, asked[i].name,
					   how(r->code));
		}
}

static void reach_finding(struct doctor_list *list, bool weights, bool reached, const char *observed, uint16_t port)
{
	char host[ADDRESS_HOST_SIZE] = "", own[ADDRESS_SIZE];
	uint16_t ignored;
	if (reached) {
		doctor_add(list, "reach", DOCTOR_GOOD, NULL, weights ? N_("others reach this node's port for weights (%u)") : N_("others reach this node's port for links (%u)"), port);
		return;
	}
	doctor_add(list, "reach", DOCTOR_BAD, NULL, weights ? N_("nobody reaches this node's port for weights (%u)") : N_("nobody reaches this node's port for links (%u)"), port);
	if (!weights && *observed && !address_split(observed, host, &ignored) && !address_join(host, port, own, sizeof own))
		doctor_remedy(list, "write [link] map_ports = yes into essaim.conf, so that the router is asked; or forward TCP port %u on the router to this machine, and let it "
			      "through the firewall (ufw allow %u/tcp). Others see this node come from %s: if that is the router, write [link] addresses = %s into "
			      "essaim.conf. Where it cannot be done, nodes that this one can dial still work", port, port, host, own);
	else
		doctor_remedy(list, "write [link] map_ports = yes into essaim.conf, so that the router is asked; or forward TCP port %u on the router to this machine, and let it "
			      "through the firewall (ufw allow %u/tcp, or firewall-cmd --permanent --add-port=%u/tcp)", port, port, port);
}

void doctor_reach(struct doctor_list *list, const struct doctor_reached *asked, size_t n, const char *observed, uint16_t link_port,
		  uint16_t torrent_port, const char *(*how)(int why))
{
	size_t answers = 0;
	bool any;
	for (size_t i = 0; i < n; i++) {
		if (asked[i].err)
			doctor_add(list, "reach", DOCTOR_SKIPPED, NULL, "%s does not say whether it reaches this node: %s", asked[i].name,
				   asked[i].err == ERR_BUSY ? N_("it was asked a moment ago; try again in ten seconds") : err_str(asked[i].err));
		else
			answers++;
	}
	if (!n)
		doctor_add(list, "reach", DOCTOR_SKIPPED, NULL, "no other node is linked, so that nobody can be asked whether this one is reached");
	if (!answers)
		return;
	bool reached = is_reached(asked, n, false, &any);
	if (!any) {
		doctor_add(list, "reach", DOCTOR_BAD, "write [link] addresses = HOST:PORT into essaim.conf", "this node's card names no address, so that nobody can dial it");
		return;
	}
	reach_finding(list, false, reached, observed, link_port);
	tell(list, asked, n, false, how);
	reached = is_reached(asked, n, true, &any);
	if (any) {
		reach_finding(list, true, reached, "", torrent_port);
		tell(list, asked, n, true, how);
	}
}
