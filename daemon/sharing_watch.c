/* Looks at the clock, the owner's pause and the machine, and opens or closes what this node shares.
 *
 * Closing gives the machine back: engines end, so that processor and memory are free; others' answers go on elsewhere after a
 * pause (daemon/ring/lost.c). When the hours end, conversations in progress get a little time first. What was placed stays
 * placed and on disk: opening loads it again, and nobody downloads anew.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "daemon/machine.h"
#include "proto/log.h"
#include "proto/text.h"

#define SAMPLE_MS 500            /* load is measured over two of these */
#define HOURS_GRACE_MS 30000     /* conversations in progress when the hours end */
#define PAUSE_FILE "paused"      /* in the home, which is the working folder: Unix seconds until which it lasts */

static unsigned week_minute(uint64_t now)
{
	time_t seconds = (time_t)now;
	struct tm tm;
	localtime_r(&seconds, &tm);
	return (unsigned)((tm.tm_wday + 6) % 7 * 24 * 60 + tm.tm_hour * 60 + tm.tm_min);
}

/* --- the owner's pause, which outlives a restart ------------------------------------------------------- */

void sharing_start(struct daemon *d)
{
	FILE *file = fopen(PAUSE_FILE, "re");
	uint64_t until;
	if (file && fscanf(file, "%" SCNu64, &until) == 1)
		d->sharing.paused_until = until;
	if (file)
		fclose(file);
	sharing_tick(d);
}

int sharing_pause(struct daemon *d, uint64_t until)
{
	int err = 0;
	if (until) {
		FILE *file = fopen(PAUSE_FILE ".new", "we");
		if (!file)
			return -errno;
		if (fprintf(file, "%" PRIu64 "\n", until) < 0 || fflush(file) || fsync(fileno(file)))
			err = -errno;
		fclose(file);
		if (!err && rename(PAUSE_FILE ".new", PAUSE_FILE))
			err = -errno;
		if (err)
			unlink(PAUSE_FILE ".new");
	} else if (unlink(PAUSE_FILE) && errno != ENOENT) {
		err = -errno;
	}
	/* The pause holds even when it could not be written: what was asked for is asked for now. */
	d->sharing.paused_until = until;
	sharing_tick(d);
	return err;
}

/* --- the machine ---------------------------------------------------------------------------------------- */

static bool sample(struct daemon *d, struct sharing_load *load)
{
	struct machine_samples *s = &d->machine;
	uint64_t ms = daemon_ms(d);
	if (s->n && ms - s->at[0] < SAMPLE_MS)
		return false;
	pid_t pids[DAEMON_MODELS_MAX];
	size_t n = 0;
	for (size_t i = 0; i < d->n_models; i++) {
		struct stage_info info;
		if (!stage_info(d->stage, d->models[i].model, &info) && info.pid > 0)
			pids[n++] = info.pid;
	}
	struct machine_ticks ticks;
	*load = (struct sharing_load){0};
	if (machine_ticks(pids, n, &ticks)) {
		s->n = 0;
		return true;
	}
	if (s->n == 2 && ms > s->at[1]) {
		uint64_t busy = ticks.busy - s->ticks[1].busy, own = ticks.own - s->ticks[1].own;
		uint64_t milliseconds = (busy > own ? busy - own : 0) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
		load->known = true;
		load->others_percent = (uint32_t)(milliseconds * 100 / (ms - s->at[1]));
		load->pressure_percent = machine_memory_pressure();
	}
	s->ticks[1] = s->ticks[0];
	s->at[1] = s->at[0];
	s->ticks[0] = ticks;
	s->at[0] = ms;
	if (s->n < 2)
		s->n++;
	return load->known;
}

/* --- opening and closing -------------------------------------------------------------------------------- */

void sharing_say(const struct daemon *d, void (*say)(void *arg, const char *format, ...), void *arg)
{
	char left[32];
	uint64_t now = daemon_now(d);
	switch (d->sharing.state) {
	case SHARING_OPEN:
		say(arg, N_("open"));
		break;
	case SHARING_PAUSED:
		if (d->config.sharing.paused)
			say(arg, N_("paused by essaim.conf ([share] paused)"));
		else if (d->sharing.paused_until == SHARING_FOR_EVER)
			say(arg, N_("paused until essaim resume"));
		else
			say(arg, N_("paused for another %s"),
			    text_duration(d->sharing.paused_until > now ? d->sharing.paused_until - now : 0, left, sizeof left));
		break;
	case SHARING_HOURS:
		say(arg, N_("outside its hours, for another %s"),
		    text_duration(sharing_next_change(&d->config.sharing.hours, week_minute(now)) * 60ull, left, sizeof left));
		break;
	case SHARING_BUSY:
		say(arg, N_("waiting until this machine has been idle for %u minutes ([share] idle_only)"), d->config.sharing.idle_minutes);
		break;
	}
}

struct text_place {
	char *out;
	size_t size;
};

static void say_as_text(void *arg, const char *format, ...)
{
	struct text_place *place = arg;
	va_list ap;
	va_start(ap, format);
	vsnprintf(place->out, place->size, format, ap);
	va_end(ap);
}

char *sharing_text(const struct daemon *d, char *out, size_t size)
{
	sharing_say(d, say_as_text, &(struct text_place){out, size});
	return out;
}

void sharing_tick(struct daemon *d)
{
	struct sharing_load load;
	uint64_t ms = daemon_ms(d);
	bool measured = d->config.sharing.idle_only && sample(d, &load);
	bool was_open = sharing_is_open(&d->sharing), moved;
	moved = sharing_look(&d->sharing, &d->config.sharing, ms, daemon_now(d), week_minute(daemon_now(d)), measured ? &load : NULL);
	bool open = sharing_is_open(&d->sharing);
	if (moved) {
		char text[200];
		log_notice("sharing: %s", sharing_text(d, text, sizeof text));
	}
	if (open != was_open) {
		d->advert_due = true;
		d->unload_at = 0;
		if (open)
			residency_open(d);
	}
	if (moved && !open)
		d->unload_at = ms + (was_open && d->sharing.state == SHARING_HOURS ? HOURS_GRACE_MS : 0);
	if (d->unload_at && (ms >= d->unload_at || (!ring_counts(d->ring).serving && !ring_counts(d->ring).home))) {
		d->unload_at = 0;
		residency_unload(d);
	}
}
