/* SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "daemon/link/address.h"
#include "proto/err.h"
#include "proto/text.h"

#define GIB (1ull << 30)

void doctor_add(struct doctor_list *list, const char *name, enum doctor_state state, const char *remedy, const char *format, ...)
{
	va_list ap;
	if (list->n == DOCTOR_CHECKS_MAX)
		return;
	struct doctor_check *c = &list->checks[list->n++];
	c->name = name;
	c->state = state;
	text_copy(c->remedy, sizeof c->remedy, remedy ? remedy : "");
	va_start(ap, format);
	vsnprintf(c->text, sizeof c->text, format, ap);
	va_end(ap);
	c->text[text_utf8_whole(c->text, strlen(c->text))] = 0;          /* it may have been cut */
}

bool doctor_is_bad(const struct doctor_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		if (list->checks[i].state == DOCTOR_BAD)
			return true;
	return false;
}

char *doctor_json(const struct doctor_list *list)
{
	static const char *const states[] = {"good", "skipped", "warning", "bad"};
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc), *checks;
	yyjson_mut_doc_set_root(doc, root);
	yyjson_mut_obj_add_bool(doc, root, "ok", !doctor_is_bad(list));
	checks = yyjson_mut_obj_add_arr(doc, root, "checks");
	for (size_t i = 0; i < list->n; i++) {
		const struct doctor_check *c = &list->checks[i];
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(doc, checks);
		yyjson_mut_obj_add_str(doc, o, "check", c->name);
		yyjson_mut_obj_add_str(doc, o, "state", states[c->state]);
		yyjson_mut_obj_add_str(doc, o, "text", c->text);
		yyjson_mut_obj_add_str(doc, o, "remedy", c->remedy);
	}
	char *text = yyjson_mut_write(doc, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
	yyjson_mut_doc_free(doc);
	return text;
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
		doctor_add(list, "disk", DOCTOR_WARNING, "make room soon", "%s has %s free%s%s%s", home, has, wanted ? " and waits for " : "",
			   wanted ? needs : "", wanted ? " of weights" : "");
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
	static const char *const remedy = "set it by NTP: timedatectl set-ntp true";
	char text[40];
	if (!n) {
		if (synchronized == 0)
			doctor_add(list, "clock", DOCTOR_WARNING, remedy, "no other node to compare with, and the system says that its clock is not synchronized");
		else
			doctor_add(list, "clock", synchronized > 0 ? DOCTOR_GOOD : DOCTOR_SKIPPED, NULL, "no other node to compare with%s",
				   synchronized > 0 ? "; the system says that its clock is synchronized" : "");
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
			   "%s's clock is %s %s ours, and there is no third to say which is wrong", sorted[0].name, text, middle > 0 ? "ahead of" : "behind");
	else
		doctor_add(list, "clock", state, remedy, "this machine's clock is %s %s those of %zu of %zu other nodes", text,
			   middle > 0 ? "behind" : "ahead of", agree, n);
	for (size_t i = 0; i < n && state == DOCTOR_GOOD; i++) {
		uint64_t other = distance(sorted[i].off, 0);
		if (other < DOCTOR_CLOCK_WARNING_S)
			continue;
		text_duration(other, text, sizeof text);
		doctor_add(list, "clock", DOCTOR_WARNING, "tell who runs it: timedatectl set-ntp true there", "%s's clock is %s %s ours and the others'",
			   sorted[i].name, text, sorted[i].off > 0 ? "ahead of" : "behind");
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
		if (!*peers[i].engine || !strcmp(peers[i].engine, own))
			continue;
		differ++;
		first = first ? first : &peers[i];
	}
	if (differ)
		doctor_add(list, "versions", DOCTOR_WARNING, "upgrade together: a ring joins only nodes whose engines are the same",
			   "%zu of %zu other nodes run another engine: %s has '%s', here it is '%s'", differ, known, first->name, first->engine, own);
	else
		doctor_add(list, "versions", DOCTOR_GOOD, NULL, "engine %s%s", own, known ? ", as on the other nodes" : "");
}

/* --- reach ----------------------------------------------------------------------------------------- */

/* What all who were asked say about one kind of port: its addresses, each with one word. Whether any of them answered. */
static bool tell(const struct doctor_reached *asked, size_t n, bool weights, char *out, size_t size)
{
	bool reached = false;
	size_t used = 0;
	out[0] = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; !asked[i].err && k < asked[i].answer.n_results; k++) {
			const struct reach_result *r = &asked[i].answer.results[k];
			if (r->weights != weights)
				continue;
			reached |= !r->code;
			const char *how = r->code ? *r->detail && !weights ? r->detail : err_str(r->code) : "reached";
			int m = snprintf(out + used, size - used, "%s%s from %s: %s", used ? "; " : "", r->address, asked[i].name, how);
			if (m > 0 && (size_t)m < size - used)
				used += (size_t)m;
			else
				out[used] = 0;
		}
	return reached;
}

static void reach_finding(struct doctor_list *list, const char *name, const char *what, bool reached, const char *said, const char *observed, uint16_t port)
{
	char remedy[sizeof list->checks->remedy], host[ADDRESS_HOST_SIZE] = "";
	uint16_t ignored;
	int n;
	if (reached) {
		doctor_add(list, name, DOCTOR_GOOD, NULL, "others reach this node's port for %s (%s)", what, said);
		return;
	}
	n = snprintf(remedy, sizeof remedy, "forward TCP port %u on the router to this machine, and let it through the firewall (ufw allow %u/tcp, or "
		     "firewall-cmd --permanent --add-port=%u/tcp)", port, port, port);
	if (*observed && !address_split(observed, host, &ignored))
		snprintf(remedy + n, sizeof remedy - (size_t)n, ". Others see this node come from %s: if that is the router, write [link] addresses = "
			 "%s%s%s:%u into essaim.conf. Where it cannot be done, nodes that this one can dial still work", host,
			 strchr(host, ':') ? "[" : "", host, strchr(host, ':') ? "]" : "", port);
	doctor_add(list, name, DOCTOR_BAD, remedy, "nobody reaches this node's port for %s (%s)", what, said);
}

void doctor_reach(struct doctor_list *list, const struct doctor_reached *asked, size_t n, const char *observed, uint16_t link_port,
		  uint16_t torrent_port)
{
	char said[sizeof list->checks->text - 80];
	size_t answers = 0;
	bool any_weights = false;
	for (size_t i = 0; i < n; i++) {
		if (asked[i].err)
			doctor_add(list, "reach", DOCTOR_SKIPPED, NULL, "%s does not say whether it reaches this node: %s", asked[i].name,
				   asked[i].err == ERR_BUSY ? "it was asked a moment ago; try again in ten seconds" : err_str(asked[i].err));
		else
			answers++;
		for (size_t k = 0; k < asked[i].answer.n_results; k++)
			any_weights |= asked[i].answer.results[k].weights;
	}
	if (!n)
		doctor_add(list, "reach", DOCTOR_SKIPPED, NULL, "no other node is linked, so that nobody can be asked whether this one is reached");
	if (!answers)
		return;
	bool reached = tell(asked, n, false, said, sizeof said);
	if (!*said) {
		doctor_add(list, "reach", DOCTOR_BAD, "write [link] addresses = HOST:PORT into essaim.conf", "this node's card names no address, so that nobody can dial it");
		return;
	}
	reach_finding(list, "reach", "links", reached, said, observed, link_port);
	reached = tell(asked, n, true, said, sizeof said);
	if (any_weights)
		reach_finding(list, "reach", "weights", reached, said, "", torrent_port);
}
