/* control.h: the unix socket HOME/control.sock between `essaim` and `essaimd`.
 *
 * One JSON object a line. Client: {"command": NAME, "args": {...}}. Daemon: any number of {"progress": {...}}, then one of
 * {"ok": true, "result": {...}} or {"ok": false, "error": {"code": "DENIED", "message": "...", "remedy": "...",
 * "template": ..., "values": [...]}}. Several commands may follow
 * each other on a connection, one at a time. Who may connect: the owner of the home and
 * root (SO_PEERCRED), mode 0600; and, where the folder is a service's, which its set-group-id bit and its group's right to enter say together
 * (mode 2750), the members of its group (SO_PEERGROUPS), mode 0660. Line limit CONTROL_LINE_MAX. What each command takes and gives: doc/CONTROL.md. Handlers are registered by main (daemon/command_*.c).
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include <uv.h>
#include <yyjson.h>

#include "proto/buf.h"
#include "proto/err.h"
#include "proto/template.h"

#define CONTROL_LINE_MAX (1u << 20)
#define CONTROL_CLIENTS_MAX 64

struct control;
struct control_request;                  /* lives until done or fail, also when the client went away */

typedef void control_handler(void *arg, struct control_request *request, yyjson_val *args /* an object, valid during the call */);
struct control_command {
	const char *name;
	control_handler *handler;
};

int control_open(struct control **out, uv_loop_t *loop, const char *home, const struct control_command *commands, void *arg,
		 char *why, size_t why_size);         /* commands end with name NULL */
void control_close(struct control *control, void (*on_closed)(void *arg), void *arg);

/* doc is freed by these. */
void control_progress(struct control_request *request, yyjson_mut_doc *doc);
void control_done(struct control_request *request, yyjson_mut_doc *doc);
void control_fail(struct control_request *request, int err, const char *remedy /* may be NULL */, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* The same with an error object that the caller made: code, message (control_say()), and where it helps remedy and details, an array
 * of objects with a text each. */
void control_refuse(struct control_request *request, yyjson_mut_doc *error);
/* A text for people in an object, as key (English), and as template and values for whoever says it in another language
 * (proto/template.h). One a JSON object, and one more as the key "remedy": its template and values are remedy_template, remedy_values. */
void control_say(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void control_vsay(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *key, const char *format, va_list ap);
bool control_is_gone(const struct control_request *request);      /* the client hung up: stop when it is cheap to */

#endif
