/* fake_engine.c: an engine that computes nothing but speaks as one, dies as one and hangs as one. What it does is asked for by
 * ordinary frames: the context of a LOAD, the position of a block, the text of a RENDER.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/unit/fake_engine.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/samples.h"

#define DAEMON_FD 3

static int fds[MODEL_FILES_MAX];
static size_t n_fds;
static char options[64];

static void die(void)
{
	_exit(9);
}

static void write_all(const uint8_t *bytes, size_t n)
{
	while (n) {
		ssize_t done = write(DAEMON_FD, bytes, n);
		if (done <= 0)
			die();
		bytes += done;
		n -= (size_t)done;
	}
}

static void say(struct buf *frame, int err)
{
	if (err)
		die();
	write_all(frame->data, frame->length);
	buf_release(frame);
}

static void hang(void)
{
	for (;;)
		pause();
}

static void receive(struct buf *in)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof fds)];
	} control;
	struct iovec part = {buf_reserve(in, 65536), 65536};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(DAEMON_FD, &message, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		_exit(0);                    /* the daemon is gone */
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
	}
	buf_grow(in, (size_t)n);
}

/* The first bytes of each file that came, one number a file. */
static uint64_t read_files(void)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < n_fds; i++) {
		char text[16] = "";
		if (pread(fds[i], text, sizeof text - 1, 0) < 0)
			die();
		sum += strtoull(text, NULL, 10);
		close(fds[i]);
	}
	n_fds = 0;
	return sum;
}

static void on_load(const struct frame *frame)
{
	struct engine_load m;
	struct buf out;
	buf_init(&out, FRAME_MAX);
	if (engine_load_decode(frame, &m))
		die();
	struct engine_loaded loaded = {.request = m.request, .kv_bytes = n_fds, .compute_bytes = m.n_extents, .n_embd = 4, .n_vocab = 8,
				       .layer_microseconds = m.threads};
	struct engine_progress progress = {.request = m.request, .permille = 500};
	struct engine_fault fault = {.request = m.request, .code = ERR_BUDGET, .detail = "it does not fit"};
	loaded.weight_bytes = read_files();
	switch (m.context) {
	case FAKE_CRASH_LOADING:
		raise(SIGSEGV);
		break;
	case FAKE_HANG_LOADING:
		hang();
		break;
	case FAKE_REFUSE_LOADING:
		say(&out, engine_fault_encode(&out, &fault));
		hang();
		break;
	case FAKE_STUBBORN:
		signal(SIGTERM, SIG_IGN);
		break;
	default:
		break;
	}
	say(&out, engine_progress_encode(&out, &progress));
	say(&out, engine_loaded_encode(&out, &loaded));
	uint32_t context = m.context;
	engine_load_free(&m);
	if (context == FAKE_STUBBORN)
		hang();
}

static void on_inspect(const struct frame *frame)
{
	static struct engine_inspect m;
	struct buf out;
	struct engine_inspected inspected = {0};
	buf_init(&out, FRAME_MAX);
	if (engine_inspect_decode(frame, &m))
		die();
	struct engine_progress progress = {.request = m.request, .permille = 250};
	uint64_t sum = read_files();
	say(&out, engine_progress_encode(&out, &progress));
	if (!strcmp(m.names[0], "crash.gguf"))
		abort();
	if (!strcmp(m.names[0], "bad.gguf")) {
		struct engine_fault fault = {.request = m.request, .code = ERR_MODEL, .detail = "bad.gguf: no model"};
		say(&out, engine_fault_encode(&out, &fault));
		return;
	}
	inspected.request = m.request;
	sample_manifest(&inspected.manifest);
	inspected.manifest.parameters = sum;
	snprintf(inspected.manifest.name, sizeof inspected.manifest.name, "files-%u", m.n_files);
	say(&out, engine_inspected_encode(&out, &inspected));
	manifest_free(&inspected.manifest);
}

static void on_open(const struct frame *frame)
{
	struct engine_open m;
	struct ready_message ready = {0};
	struct buf out;
	buf_init(&out, FRAME_MAX);
	if (engine_open_decode(frame, &m))
		die();
	memcpy(ready.session, m.session, SESSION_BYTES);
	ready.epoch = m.epoch;
	ready.stage = m.stage;
	say(&out, ready_encode(&out, &ready));
}

static void on_rows(const struct frame *frame)
{
	static struct rows_message m;
	struct buf out;
	buf_init(&out, FRAME_MAX);
	if (rows_decode(frame, &m))
		die();
	switch (m.blocks[0].position) {
	case FAKE_CRASH_AT:
		raise(SIGABRT);
		break;
	case FAKE_HANG_AT:
		hang();
		break;
	case FAKE_LEAVE_AT:
		_exit(5);
		break;
	case FAKE_NONSENSE_AT:
		write_all((const uint8_t *)"\377\377\377\377 what is this", 18);
		hang();
		break;
	case FAKE_TICKET_AT:
		say(&out, frame_encode(&out, FRAME_TICKET, "\x80", 1, "as if", 5));
		hang();
		break;
	default:
		break;
	}
	for (size_t i = 0; i < m.n_blocks; i++)
		m.blocks[i].stage++;
	say(&out, rows_encode(&out, &m));
}

/* Tokens that answer questions about this process. */
static void on_render(const struct frame *frame)
{
	struct engine_render m;
	struct buf out, tokens;
	buf_init(&out, FRAME_MAX);
	buf_init(&tokens, FRAME_MAX);
	if (engine_render_decode(frame, &m))
		die();
	struct engine_rendered answer = {.request = m.request};
	struct engine_fault fault = {.request = m.request, .code = ERR_UNSUPPORTED, .detail = "no template"};
	char text[256] = "";
	uint8_t number[4];
	snprintf(text, sizeof text, "%.*s", (int)m.messages[0].content_length, m.messages[0].content);
	engine_render_free(&m);
	if (!strcmp(text, "refuse")) {
		say(&out, engine_fault_encode(&out, &fault));
		return;
	}
	if (!strcmp(text, "crash"))
		raise(SIGSEGV);
	if (!strcmp(text, "descriptors")) {
		DIR *folder = opendir("/proc/self/fd");
		struct dirent *entry;
		while (folder && (entry = readdir(folder)))
			if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(folder)) {
				put_u32(number, (uint32_t)atoi(entry->d_name));
				buf_append(&tokens, number, 4);
			}
		closedir(folder);
	} else if (!strncmp(text, "environment ", 12)) {
		const char *value = getenv(text + 12);
		put_u32(number, value ? (uint32_t)atoi(value) : FAKE_UNDEFINED);
		buf_append(&tokens, number, 4);
	} else if (!strcmp(text, "options")) {
		for (const char *at = options; *at; at++) {
			put_u32(number, (uint32_t)*at);
			buf_append(&tokens, number, 4);
		}
	}
	answer.n_tokens = tokens.length / 4;
	answer.tokens = tokens.data;
	say(&out, engine_rendered_encode(&out, &answer));
	buf_release(&tokens);
}

int fake_engine_main(int argc, char **argv)
{
	struct engine_hello hello = {.engine = "fake 1.0 q00000000 cpu", .sandboxed = true};
	struct buf in, out;
	samples_init();
	signal(SIGSEGV, SIG_DFL);            /* a crash is to look like one, sanitizers or not */
	for (int i = 1; i < argc; i++)
		snprintf(options + strlen(options), sizeof options - strlen(options), "%s%s", i > 1 ? " " : "", argv[i]);
	buf_init(&in, FRAME_MAX + 65536);
	buf_init(&out, FRAME_MAX);
	say(&out, engine_hello_encode(&out, &hello));
	for (;;) {
		struct frame frame;
		size_t used;
		int err = frame_decode(in.data, in.length, &frame, &used);
		if (err == -EAGAIN) {
			receive(&in);
			continue;
		}
		if (err)
			die();
		switch (frame.type) {
		case FRAME_ENGINE_LOAD: on_load(&frame); break;
		case FRAME_ENGINE_INSPECT: on_inspect(&frame); break;
		case FRAME_ENGINE_OPEN: on_open(&frame); break;
		case FRAME_ENGINE_RENDER: on_render(&frame); break;
		case FRAME_ROWS: on_rows(&frame); break;
		case FRAME_CLOSE: break;
		default: die();
		}
		buf_consume(&in, used);
	}
}
