/* progress.c: what libtorrent tells becomes a state, and whoever asked is told: a new state at once, progress at most
 * twice a second. See catalog.h. SPDX-License-Identifier: AGPL-3.0-or-later */
#include "daemon/store/catalog.h"

#include <stdio.h>
#include <string.h>

#include "proto/log.h"
#include "proto/text.h"

#define PUBLISHED_TICKS 4                /* published files are looked at every two seconds */
#define SAVE_BYTES (256u << 20)          /* resume data: so much came */
#define SAVE_MS 60000                    /* or so long ago */

static enum store_state state_of(const struct model *m)
{
	if (m->failed)
		return STORE_FAILED;
	if (m->torrent && !m->known)
		return STORE_CHECKING;
	if (m->n_ranges == 0)
		return STORE_IDLE;
	return m->known && pieces_cover(m->have, m->want, m->layout.n_pieces) ? STORE_READY : STORE_FETCHING;
}

static uint64_t bytes_of_files(const struct manifest_body *body)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < body->n_files; i++)
		bytes += body->files[i].size;
	return bytes;
}

void progress_update(struct store *store, struct model *m)
{
	struct store_status now = {.state = state_of(m), .rate = m->rate, .peers = m->peers, .seconds_left = UINT64_MAX};

	now.bytes_total = bytes_of_files(&m->body);
	if (m->fetchable) {
		now.bytes_wanted = extents_bytes(&m->layout, m->want, NULL);
		now.bytes_have = extents_bytes(&m->layout, m->want, m->have);
		now.bytes_on_disk = extents_bytes(&m->layout, m->have, NULL);
	}
	now.complete = m->known && now.bytes_on_disk == now.bytes_total;
	if (now.state == STORE_READY || now.state == STORE_IDLE)
		now.seconds_left = 0;
	else if (now.state == STORE_FETCHING && now.rate)
		now.seconds_left = (now.bytes_wanted - now.bytes_have + now.rate - 1) / now.rate;
	if (now.state != STORE_FETCHING)
		now.rate = 0;
	if (m->why[0])
		text_copy(now.why, sizeof now.why, m->why);
	else if (now.state == STORE_CHECKING)
		snprintf(now.why, sizeof now.why, "checking what is on disk: %u %%", m->permille / 10);
	else if (now.state == STORE_FETCHING && now.peers == 0)
		text_copy(now.why, sizeof now.why, "no peer is connected that could send it");

	if (now.state != m->status.state || now.complete != m->status.complete || strcmp(now.why, m->status.why) != 0)
		m->told_now = true;
	else if (now.bytes_on_disk != m->status.bytes_on_disk || now.bytes_wanted != m->status.bytes_wanted ||
		 now.rate != m->status.rate || now.peers != m->status.peers)
		m->told_due = true;
	if (now.state == STORE_READY && m->status.state != STORE_READY)
		log_info("model %s: every piece of the wanted layers is here and checked", m->body.name);
	m->status = now;
	if (m->told_now && store->phase == STORE_OPEN)
		uv_async_send(&store->wake);
}

static struct model *by_torrent(const struct store *store, uint32_t id)
{
	for (struct model *m = store->models; m; m = m->next) {
		if (m->torrent == id)
			return m;
	}
	return NULL;
}

static void on_status(struct store *store, struct model *m, const struct torrent_event *event)
{
	bool was_known = m->known;

	m->rate = event->rate;
	m->peers = event->peers;
	if (event->checking) {
		/* The bits of a check that goes on are worth nothing yet. */
		m->known = false;
		m->permille = event->permille;
		progress_update(store, m);
		return;
	}
	if (event->n_pieces == m->layout.n_pieces && memcmp(m->have, event->have, PIECES_BYTES(m->layout.n_pieces)) != 0) {
		memcpy(m->have, event->have, PIECES_BYTES(m->layout.n_pieces));
		m->save_due = true;
	}
	m->known = true;
	if (!was_known)
		m->save_due = true;
	progress_update(store, m);

	if (m->published && !m->status.complete && !m->failed) {
		const char *which = m->paths[0];

		disk_unchanged(m, &which);
		model_leave_session(store, m);
		model_fail(store, m, "%s does not hold what its manifest says (a failing disk, or it was replaced); put the original "
			   "back, or remove this model and add the file again", which);
		return;
	}
	if (m->published && !m->trusted && m->status.complete) {
		m->trusted = true;     /* every piece was read */
		disk_save_origin(store, m);
	}
	if (!m->published && m->status.complete && m->claim == CLAIM_UNCHECKED && store->phase == STORE_OPEN)
		hash_check_claim(store, m);
	if (!m->published && m->save_due && store->phase == STORE_OPEN && !m->failed &&
	    (m->status.state != STORE_FETCHING || m->status.bytes_on_disk >= m->saved_bytes + SAVE_BYTES ||
	     uv_now(store->loop) >= m->saved_at + SAVE_MS))
		disk_save_resume(store, m);
}

static void on_stopped(struct store *store, struct model *m, const struct torrent_event *event)
{
	if (m->published) {
		model_leave_session(store, m);
		model_fail(store, m, "%s; put the published file back, or remove this model", event->why);
	} else if (event->err == -ENOSPC || event->err == -EDQUOT || event->err == -EFBIG) {
		model_fail(store, m, "%s: free some space (or raise the limit), then pull the model again", event->why);
	} else {
		model_fail(store, m, "%s: see to it, then pull the model again", event->why);
	}
}

static void on_event(void *arg, const struct torrent_event *event)
{
	struct store *store = arg;
	struct model *m = event->id ? by_torrent(store, event->id) : NULL;

	if (event->kind == TORRENT_DRAINED) {
		store->drain_until = 0;
		return;
	}
	if (!m)
		return;
	if (event->kind == TORRENT_REMOVED) {
		m->torrent = 0;
		m->known = false;
		model_free_if_removed(store, m);
		return;
	}
	if (m->removing)
		return;
	switch (event->kind) {
	case TORRENT_STATUS:
		on_status(store, m, event);
		break;
	case TORRENT_STOPPED:
		on_stopped(store, m, event);
		break;
	case TORRENT_BAD_PIECE:
		m->bad_pieces++;
		log_warning("model %s: piece %u from a peer failed its hash and was refused", m->body.name, event->piece);
		if (!m->failed) {
			snprintf(m->why, sizeof m->why, "%u pieces from peers failed their hash and were refused", m->bad_pieces);
			progress_update(store, m);
		}
		break;
	case TORRENT_CHANGED:
		model_leave_session(store, m);
		model_fail(store, m, "%s is not the file that was published any more; put the original back, or remove this model and "
			   "add the new file", m->paths[0]);
		break;
	default:
		break;
	}
}

/* The owner may call any verb meanwhile, but models go only through a later event. */
static void tell(struct store *store)
{
	uint64_t now = uv_now(store->loop);

	for (struct model *m = store->models, *next; m && store->phase == STORE_OPEN; m = next) {
		uint8_t id[KEY_BYTES];

		next = m->next;
		if (m->removing || !(m->told_now || (m->told_due && now >= m->told_at + STORE_POLL_MS)))
			continue;
		m->told_now = m->told_due = false;
		m->told_at = now;
		memcpy(id, m->id, sizeof id);
		if (store->config.on_change)
			store->config.on_change(store->config.arg, id);
	}
}

void progress_wake(uv_async_t *wake)
{
	struct store *store = wake->data;

	if (store->torrents && store->phase <= STORE_DRAINING)
		torrent_session_events(store->torrents, on_event, store);
	tell(store);
	store_close_step(store);
}

void progress_tick(uv_timer_t *timer)
{
	struct store *store = timer->data;

	store->ticks++;
	if (store->phase == STORE_OPEN) {
		torrent_session_poll(store->torrents);
		hash_report(store);
	}
	for (struct model *m = store->models; m && store->phase == STORE_OPEN && store->ticks % PUBLISHED_TICKS == 0; m = m->next) {
		const char *which = "";

		if (!m->published || m->failed || m->removing || disk_unchanged(m, &which))
			continue;
		model_leave_session(store, m);
		model_fail(store, m, "%s is not the file that was published any more; put the original back, or remove this model and "
			   "add the new file", which);
	}
	tell(store);
	store_close_step(store);
}
