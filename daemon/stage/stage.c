/* stage.c: this node's models and their engines.
 *
 *   NONE -> STARTING (spawned, sandbox comes up) -> LOADING (LOAD sent) -> READY
 *   any of these -> FAILED (refused, or died) or QUARANTINED (died three times within ten minutes)
 *
 * An engine is over when its process was reaped and its socket closed; only then is its memory counted as free and a
 * model's next engine started. SIGCHLD is ours as far as our children go: each is asked for by its own id.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/stage/stage.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/stage/stage_internal.h"
#include "proto/log.h"
#include "proto/text.h"

static void release_load(struct stage_load *load)
{
	for (size_t i = 0; i < load->n_fds; i++)
		close(load->fds[i]);
	free(load->extents);
	load->n_fds = load->n_extents = 0;
	load->extents = NULL;
}

struct resident *stage_find(const struct stage *stage, const uint8_t model[KEY_BYTES])
{
	for (struct resident *r = stage->residents; r; r = r->next)
		if (!memcmp(r->model, model, KEY_BYTES))
			return r;
	return NULL;
}

uint32_t stage_next_request(struct stage *stage)
{
	if (!++stage->last_request)
		stage->last_request = 1;      /* 0 means "the engine as a whole" */
	return stage->last_request;
}

const char *stage_engine_name(const struct stage *stage)
{
	return stage->engine_name;
}

const struct stage_device *stage_device(const struct stage *stage)
{
	return &stage->device;
}

static void set_device(struct stage *stage, const struct engine_device *device, const char *why)
{
	stage->device.known = true;
	stage->device.device = *device;
	text_copy(stage->device.why, sizeof stage->device.why, why);
	if (!stage->closing && stage->config.on_device)
		stage->config.on_device(stage->config.arg);
}

/* The last thing its caller does: main may call back. */
static void set_state(struct stage *stage, struct resident *r, enum stage_state state, const char *why)
{
	r->info.state = state;
	if (why != r->info.why)
		text_copy(r->info.why, sizeof r->info.why, why ? why : "");
	if (!stage->closing && stage->config.on_state)
		stage->config.on_state(stage->config.arg, r->model, state, r->info.why);
}

/* --- engines ---------------------------------------------------------------------------------------- */

static void on_engine_frame(void *owner, const struct frame *frame);
static void on_engine_end(void *owner, int err);
static void on_engine_closed(void *owner);

int engine_new(struct stage *stage, uint64_t data_limit, const char *gpu, struct engine **out, char *why, size_t why_size)
{
	int fd;
	struct engine *e = calloc(1, sizeof *e);
	if (!e)
		return -ENOMEM;
	/* Drivers of devices have threads of their own, which would all be kept to the first core. */
	bool all_cores = !gpu && stage->config.threads >= uv_available_parallelism();
	int err = engine_spawn(stage->engine_path, data_limit, gpu, all_cores, &e->pid, &fd, why, why_size);
	if (err) {
		free(e);
		return err;
	}
	e->stage = stage;
	e->io.owner = e;
	e->io.on_frame = on_engine_frame;
	e->io.on_end = on_engine_end;
	e->io.on_closed = on_engine_closed;
	e->deadline = uv_now(stage->config.loop) + HELLO_MS;
	e->progress_at = uv_now(stage->config.loop);
	e->next = stage->engines;
	stage->engines = e;
	err = engine_io_open(&e->io, stage->config.loop, fd);
	if (err) {
		snprintf(why, why_size, "an engine's socket cannot be watched: %s", err_str(err));
		if (e->io.fd < 0)
			e->io_closed = true;
		kill(e->pid, SIGKILL);
		engine_stop(e);
		return err;
	}
	*out = e;
	return 0;
}

void engine_stop(struct engine *e)
{
	if (e->stopping)
		return;
	e->stopping = true;
	e->deadline = uv_now(e->stage->config.loop) + TERM_MS;
	if (e->resident) {
		e->resident->engine = NULL;
		e->resident = NULL;
	}
	if (!e->exited)
		kill(e->pid, SIGTERM);
	engine_io_close(&e->io);
}

static void kill_engine(struct engine *e)
{
	if (!e->exited)
		kill(e->pid, SIGKILL);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct stage *stage = handle->data;
	if (--stage->open_handles)
		return;
	void (*on_closed)(void *arg) = stage->on_closed;
	void *arg = stage->closed_arg;
	while (stage->residents) {
		struct resident *r = stage->residents;
		stage->residents = r->next;
		release_load(&r->load);
		owed_release(&r->owed);
		free(r);
	}
	free(stage->engine_path);
	free(stage->gpu);
	free(stage);
	if (on_closed)
		on_closed(arg);
}

static void close_when_alone(struct stage *stage)
{
	if (!stage->closing || stage->engines || uv_is_closing((uv_handle_t *)&stage->timer))
		return;
	uv_close((uv_handle_t *)&stage->timer, on_handle_closed);
	uv_close((uv_handle_t *)&stage->sigchld, on_handle_closed);
}

static int start_waiting(struct stage *stage, struct resident *r, char *why, size_t why_size);

static void free_if_over(struct engine *e)
{
	if (!e->exited || !e->io_closed)
		return;
	struct stage *stage = e->stage;
	for (struct engine **at = &stage->engines; *at; at = &(*at)->next)
		if (*at == e) {
			*at = e->next;
			break;
		}
	free(e);
	close_when_alone(stage);
}

static void on_engine_closed(void *owner)
{
	struct engine *e = owner;
	e->io_closed = true;
	free_if_over(e);
}

/* --- the end of an engine --------------------------------------------------------------------------- */

static void say_how_it_ended(const struct engine *e, char *why, size_t size)
{
	if (e->fault[0])
		snprintf(why, size, "%s", e->fault);
	else if (e->hung)
		snprintf(why, size, "the engine made no progress and was ended (is the machine overloaded?)");
	else if (!e->exited)
		snprintf(why, size, "the engine answered nonsense and was ended");
	else if (WIFSIGNALED(e->exit_status) && WTERMSIG(e->exit_status) == SIGSYS)
		snprintf(why, size, "the engine asked the kernel for what its sandbox denies (please report this)");
	else if (WIFSIGNALED(e->exit_status) && WTERMSIG(e->exit_status) == SIGKILL)
		snprintf(why, size, "the engine was killed (out of memory? lower [share] memory or context)");
	else if (WIFSIGNALED(e->exit_status))
		snprintf(why, size, "the engine crashed with signal %d (%s): the log says more; a damaged or hostile model file does this",
			 WTERMSIG(e->exit_status), strsignal(WTERMSIG(e->exit_status)));
	else
		snprintf(why, size, "the engine ended by itself with status %d: the log says why", WEXITSTATUS(e->exit_status));
}

/* A model lost its engine: everything that was on it is over. */
static void lose_engine(struct stage *stage, struct resident *r, bool crashed, const char *why)
{
	char text[400];
	text_copy(text, sizeof text, why);
	r->engine = NULL;
	r->load_request = 0;
	r->info.pid = 0;
	r->info.n_ranges = 0;
	r->info.device_bytes = r->info.device_layers = 0;
	owed_release(&r->owed);
	bool quarantined = false;
	if (crashed) {
		r->info.err = ERR_ENGINE;
		quarantined = crashes_add(&r->crashes, uv_now(stage->config.loop) / 1000);
		r->info.crashes = r->crashes.n;
	}
	if (quarantined) {
		size_t length = strlen(text);
		snprintf(text + length, sizeof text - length, "; it died %d times within %d minutes", CRASHES_MAX, CRASHES_WINDOW_S / 60);
	}
	render_fail_all(r, ERR_ENGINE, text);
	set_state(stage, r, quarantined ? STAGE_QUARANTINED : STAGE_FAILED, text);
}

static void engine_is_over(struct engine *e)
{
	struct stage *stage = e->stage;
	struct resident *r = e->resident;
	char why[400];
	say_how_it_ended(e, why, sizeof why);
	bool refused = e->fault[0] && !e->hung;      /* it said why and left: no crash */
	bool known = r || e->inspection, looks = e->looks;
	e->resident = NULL;
	e->looks = false;
	engine_stop(e);
	if (looks)
		set_device(stage, &(struct engine_device){0}, why);
	if (known)
		inspection_fail(e, ERR_ENGINE, why);
	if (r)
		lose_engine(stage, r, !refused, why);
}

/* It may have been taken over by what it read: nothing it says counts any more. */
static void distrust(struct engine *e, const char *what)
{
	log_error("an engine (process %d) sent %s: it is ended", (int)e->pid, what);
	kill_engine(e);
	engine_is_over(e);
}

static void on_engine_end(void *owner, int err)
{
	struct engine *e = owner;
	if (err)
		distrust(e, "bytes that are no frames");
	/* Otherwise it is ending: SIGCHLD says how. One that closed its socket and lives on is killed. */
	if (!e->exited && !e->stopping)
		e->deadline = uv_now(e->stage->config.loop) + TERM_MS;
}

static void on_sigchld(uv_signal_t *handle, int signal_number)
{
	struct stage *stage = handle->data;
	for (struct engine *e = stage->engines; e; e = e->next) {
		int status;
		if (e->exited || waitpid(e->pid, &status, WNOHANG) != e->pid)
			continue;
		e->exit_status = status;
		e->exited = true;
		engine_io_drain(&e->io);         /* its last words may explain it */
	}
	for (struct engine *e = stage->engines, *next; e; e = next) {
		next = e->next;
		if (!e->exited)
			continue;
		if (!e->stopping)
			engine_is_over(e);
		free_if_over(e);
	}
	/* A model whose old engine is gone can have its new one. */
	for (struct resident *r = stage->residents; r && !stage->closing; r = r->next) {
		char why[400] = "";
		if (r->load_waits && start_waiting(stage, r, why, sizeof why))
			set_state(stage, r, STAGE_FAILED, why);
	}
}

/* --- frames of a model's engine --------------------------------------------------------------------- */

static int send_load(struct engine *e, struct resident *r)
{
	struct stage_load *load = &r->load;
	struct engine_load m = {
		.request = stage_next_request(e->stage), .n_files = (uint32_t)load->n_fds, .n_ranges = load->n_ranges, .n_layer = load->n_layer,
		.context = load->context, .sessions = load->sessions, .threads = e->stage->config.threads, .memory_max = load->memory_max,
		.device_max = load->device_max,
		.n_extents = load->n_extents, .extents = load->extents,
	};
	memcpy(m.ranges, load->ranges, sizeof m.ranges);
	struct buf frame;
	buf_init(&frame, FRAME_MAX);
	int err = engine_load_encode(&frame, &m);
	if (err) {
		buf_release(&frame);
	} else {
		err = engine_io_send(&e->io, &frame, load->fds, load->n_fds);
		load->n_fds = 0;             /* taken */
	}
	release_load(load);
	r->load_request = m.request;
	e->progress_at = uv_now(e->stage->config.loop);
	return err;
}

static void on_hello(struct engine *e, const struct frame *frame)
{
	struct stage *stage = e->stage;
	struct engine_hello hello;
	if (e->said_hello || engine_hello_decode(frame, &hello)) {
		distrust(e, "a greeting that cannot be read");
		return;
	}
	e->said_hello = true;
	e->deadline = 0;
	text_copy(e->name, sizeof e->name, hello.engine);
	e->sandboxed = hello.sandboxed;
	if (!e->inspection || !stage->gpu)       /* an inspection's has no device in its name */
		text_copy(stage->engine_name, sizeof stage->engine_name, hello.engine);
	if (e->looks) {
		e->looks = false;
		engine_stop(e);
		set_device(stage, &hello.device, hello.no_device);
	}
	if (e->inspection)
		inspection_on_hello(e);
	if (!e->resident)
		return;
	struct resident *r = e->resident;
	text_copy(r->info.engine, sizeof r->info.engine, hello.engine);
	r->info.sandboxed = hello.sandboxed;
	int err = send_load(e, r);
	if (err) {
		snprintf(e->fault, sizeof e->fault, "the engine could not be told what to load: %s", err_str(err));
		engine_is_over(e);
		return;
	}
	set_state(stage, r, STAGE_LOADING, NULL);
}

static void on_loaded(struct engine *e, struct resident *r, const struct frame *frame)
{
	struct engine_loaded m;
	if (engine_loaded_decode(frame, &m) || !r->load_request || m.request != r->load_request) {
		distrust(e, "a LOADED that nobody asked for or that cannot be read");
		return;
	}
	r->load_request = 0;
	r->info.weight_bytes = m.weight_bytes;
	r->info.kv_bytes = m.kv_bytes;
	r->info.compute_bytes = m.compute_bytes;
	r->info.device_bytes = m.device_bytes;
	r->info.device_layers = m.device_layers;
	r->info.layer_microseconds = m.layer_microseconds;
	r->info.truncate = m.truncate;
	r->info.n_ranges = r->load.n_ranges;
	memcpy(r->info.ranges, r->load.ranges, sizeof r->info.ranges);
	r->info.context = r->load.context;
	r->info.sessions = r->load.sessions;
	set_state(e->stage, r, STAGE_READY, NULL);
}

static void on_fault(struct engine *e, struct resident *r, const struct frame *frame)
{
	struct engine_fault m;
	if (engine_fault_decode(frame, &m)) {
		distrust(e, "a fault that cannot be read");
		return;
	}
	if (m.request && render_on_fault(r, &m))
		return;
	r->info.err = m.code < 0 ? m.code : ERR_ENGINE;
	snprintf(e->fault, sizeof e->fault, "%s", m.detail[0] ? m.detail : err_str(m.code));
	engine_is_over(e);
}

static void on_engine_frame(void *owner, const struct frame *frame)
{
	struct engine *e = owner;
	struct stage *stage = e->stage;
	struct resident *r = e->resident;
	if (e->stopping)
		return;
	e->progress_at = uv_now(stage->config.loop);
	if (frame->type == FRAME_ENGINE_HELLO) {
		on_hello(e, frame);
		return;
	}
	if (e->inspection) {
		inspection_on_frame(e, frame);
		return;
	}
	if (!r)
		return;
	switch (frame->type) {
	case FRAME_ENGINE_LOADED:
		on_loaded(e, r, frame);
		break;
	case FRAME_ENGINE_FAULT:
		on_fault(e, r, frame);
		break;
	case FRAME_ENGINE_RENDERED:
		if (render_on_frame(r, frame))
			distrust(e, "a rendering that cannot be read");
		break;
	case FRAME_ENGINE_PROGRESS:
		break;
	case FRAME_ROWS:
	case FRAME_TOKENS:
	case FRAME_READY:
	case FRAME_FAULT:
		if (owed_got(&r->owed, frame))
			distrust(e, "a session's frame that cannot be read");
		else
			stage->config.on_frame(stage->config.arg, r->model, frame);
		break;
	default:
		if (frame->type < 128)       /* from 128 on: a later version's, to be skipped */
			distrust(e, "a frame that is not an engine's to send");
	}
}

/* --- verbs ------------------------------------------------------------------------------------------ */

/* Sessions that end because we end their engine: ring hears it as the engine's own fault. */
static void fault_sessions(struct stage *stage, struct resident *r)
{
	struct owed owed = r->owed;
	r->owed = (struct owed){0};
	for (size_t i = 0; i < owed.n; i++)
		for (uint32_t k = 0; k < 32; k++) {
			if (!(owed.sessions[i].stages >> k & 1))
				continue;
			struct fault_message fault = {.epoch = owed.sessions[i].epoch, .stage = k, .code = ERR_ENGINE, .detail = "the engine was stopped"};
			struct buf bytes;
			struct frame frame;
			size_t used;
			memcpy(fault.session, owed.sessions[i].id, SESSION_BYTES);
			buf_init(&bytes, FRAME_MAX);
			if (!fault_encode(&bytes, &fault) && !frame_decode(bytes.data, bytes.length, &frame, &used))
				stage->config.on_frame(stage->config.arg, r->model, &frame);
			buf_release(&bytes);
		}
	owed_release(&owed);
}

static void stop_resident(struct stage *stage, struct resident *r, const char *why)
{
	if (r->engine)
		engine_stop(r->engine);
	r->load_request = 0;
	r->info.pid = 0;
	r->info.n_ranges = 0;
	r->info.device_bytes = r->info.device_layers = 0;
	release_load(&r->load);
	r->load_waits = false;
	render_fail_all(r, ERR_ENGINE, why);
	if (!stage->closing)
		fault_sessions(stage, r);
}

static int start_waiting(struct stage *stage, struct resident *r, char *why, size_t why_size)
{
	struct engine *e;
	for (e = stage->engines; e; e = e->next)
		if (e->stopping && !e->inspection && !e->exited)
			return 0;            /* an older engine's memory is not free yet; SIGCHLD brings us back */
	r->load_waits = false;
	int err = engine_new(stage, r->load.data_limit, stage->gpu, &e, why, why_size);
	if (err) {
		release_load(&r->load);
		return err;
	}
	e->resident = r;
	r->engine = e;
	r->info.pid = e->pid;
	return 0;
}

static bool same_load(const struct stage_load *a, const struct stage_load *b)
{
	return a->n_ranges == b->n_ranges && !memcmp(a->ranges, b->ranges, a->n_ranges * sizeof *a->ranges) && a->context == b->context &&
	       a->sessions == b->sessions;
}

/* The model's place in the list, made when it has none. */
static struct resident *take_resident(struct stage *stage, const uint8_t model[KEY_BYTES])
{
	struct resident *r = stage_find(stage, model);
	if (r)
		return r;
	r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	memcpy(r->model, model, KEY_BYTES);
	r->next = stage->residents;
	stage->residents = r;
	return r;
}

int stage_start(struct stage *stage, struct stage_load *load)
{
	struct resident *r = stage_find(stage, load->model);
	char why[400] = "";
	if (stage->closing || (r && r->info.state == STAGE_QUARANTINED)) {
		release_load(load);
		return stage->closing ? ERR_CANCELLED : ERR_ENGINE;
	}
	r = take_resident(stage, load->model);
	if (!r) {
		release_load(load);
		return -ENOMEM;
	}
	if ((r->engine || r->load_waits) && same_load(&r->load, load)) {
		release_load(load);
		return 0;
	}
	stop_resident(stage, r, "the model's engine is being replaced");
	r->load = *load;
	load->n_fds = load->n_extents = 0;
	load->extents = NULL;
	r->load_waits = true;
	int err = start_waiting(stage, r, why, sizeof why);
	set_state(stage, r, err ? STAGE_FAILED : STAGE_STARTING, why);
	return err;
}

void stage_stop(struct stage *stage, const uint8_t model[KEY_BYTES])
{
	struct resident *r = stage_find(stage, model);
	if (!r || (!r->engine && !r->load_waits))
		return;
	stop_resident(stage, r, "the model's engine was stopped");
	set_state(stage, r, STAGE_NONE, NULL);
}

int stage_quarantine(struct stage *stage, const uint8_t model[KEY_BYTES], const char *why)
{
	struct resident *r = take_resident(stage, model);
	if (!r)
		return -ENOMEM;
	if (r->engine || r->load_waits)
		stop_resident(stage, r, why);
	set_state(stage, r, STAGE_QUARANTINED, why);
	return 0;
}

void stage_clear(struct stage *stage, const uint8_t model[KEY_BYTES])
{
	struct resident *r = stage_find(stage, model);
	if (!r)
		return;
	crashes_clear(&r->crashes);
	r->info.crashes = 0;
	if (r->info.state == STAGE_QUARANTINED)
		set_state(stage, r, STAGE_NONE, NULL);
}

int stage_send(struct stage *stage, const uint8_t model[KEY_BYTES], struct buf *frame)
{
	struct resident *r = stage_find(stage, model);
	struct frame view;
	size_t used;
	int err = !r ? ERR_UNKNOWN : r->info.state != STAGE_READY || !r->engine ? ERR_ENGINE : 0;
	if (!err)
		err = frame_decode(frame->data, frame->length, &view, &used);
	bool owed_before = r && owed_any(&r->owed);
	if (!err)
		err = owed_sent(&r->owed, &view);
	if (err) {
		buf_release(frame);
		return err;
	}
	if (!owed_before)
		r->engine->progress_at = uv_now(stage->config.loop);
	return engine_io_send(&r->engine->io, frame, NULL, 0);
}

int stage_info(const struct stage *stage, const uint8_t model[KEY_BYTES], struct stage_info *out)
{
	const struct resident *r = stage_find(stage, model);
	if (!r)
		return ERR_UNKNOWN;
	*out = r->info;
	out->sessions_open = (uint32_t)r->owed.n;
	return 0;
}

/* --- time, life ------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
	struct stage *stage = timer->data;
	uint64_t now = uv_now(stage->config.loop);
	for (struct engine *e = stage->engines; e; e = e->next) {
		if (e->exited)
			continue;
		if (e->deadline && now >= e->deadline) {
			if (!e->stopping && !e->said_hello)
				e->hung = true;
			e->deadline = 0;
			kill_engine(e);
		}
		bool owes = e->inspection ? e->said_hello : e->resident && (e->resident->load_request || e->resident->renders || owed_any(&e->resident->owed));
		if (!e->stopping && owes && now - e->progress_at >= (uint64_t)stage->config.hang_seconds * 1000) {
			log_error("an engine (process %d) made no progress for %u s: it is ended", (int)e->pid, stage->config.hang_seconds);
			e->hung = true;
			e->progress_at = now;
			kill_engine(e);
		}
	}
}

int stage_open(struct stage **out, const struct stage_config *config)
{
	struct stage *stage = calloc(1, sizeof *stage);
	if (!stage)
		return -ENOMEM;
	stage->config = *config;
	stage->engine_path = strdup(config->engine_path);
	stage->gpu = config->gpu ? strdup(config->gpu) : NULL;
	if (!stage->config.hang_seconds)
		stage->config.hang_seconds = HANG_SECONDS;
	if (!stage->config.threads)
		stage->config.threads = 1;
	if (!stage->engine_path || (config->gpu && !stage->gpu)) {
		free(stage->engine_path);
		free(stage);
		return -ENOMEM;
	}
	stage->config.gpu = stage->gpu;
	stage->device.known = !stage->gpu;
	stage->config.engine_path = stage->engine_path;
	/* Neither can fail on a loop that works: no system call is made. */
	uv_timer_init(config->loop, &stage->timer);
	uv_signal_init(config->loop, &stage->sigchld);
	stage->timer.data = stage->sigchld.data = stage;
	stage->open_handles = 2;
	int err = uv_signal_start(&stage->sigchld, on_sigchld, SIGCHLD);
	if (!err)
		err = uv_timer_start(&stage->timer, on_timer, TICK_MS, TICK_MS);
	if (err) {
		stage->closing = true;
		close_when_alone(stage);
		return err;
	}
	*out = stage;
	struct engine *e;
	char why[400] = "";
	if (!stage->gpu)
		return 0;
	if (engine_new(stage, 0, stage->gpu, &e, why, sizeof why))
		set_device(stage, &(struct engine_device){0}, why);
	else
		e->looks = true;
	return 0;
}

void stage_close(struct stage *stage, void (*on_closed)(void *arg), void *arg)
{
	stage->closing = true;
	stage->on_closed = on_closed;
	stage->closed_arg = arg;
	for (struct resident *r = stage->residents; r; r = r->next)
		stop_resident(stage, r, "the node is going away");
	for (struct engine *e = stage->engines; e; e = e->next) {
		inspection_fail(e, ERR_CANCELLED, "the node is going away");
		engine_stop(e);
	}
	close_when_alone(stage);
}
