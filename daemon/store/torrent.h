/* torrent.h: BitTorrent behind plain C (DESIGN D14). Implemented by torrent.cpp over libtorrent-rasterbar 2.
 *
 * Three things: making the metainfo of files (a hybrid torrent, BEP 3 and BEP 52 in one), reading what a metainfo says,
 * and a session that exchanges pieces with the peers it was given and nobody else. Nothing is announced anywhere: no
 * trackers, DHT, local discovery, peer exchange or port mapping; TCP only.
 *
 * Who may exchange. Addresses that are not allowed are filtered before a byte is read. Several nodes may share one
 * address (loopback, a home's router), so that two more things hold: outgoing connections go to allowed ports only, and
 * an incoming connection is served only after its BEP 10 handshake named an allowed host's port as its own listening
 * port. That port is the peer's word: somebody on the same host as an allowed peer can lie. BitTorrent itself
 * neither authenticates nor hides anything; see doc/SECURITY.md.
 *
 * Published files are never written: they are seeded with downloading switched off, and before every read their size
 * and time are compared with what was hashed, so that a file that was replaced is not sent, not even in part.
 *
 * Thread: calls from the loop's thread only, except that torrent_maker_* work on any one thread and
 * torrent_session_close() blocks and belongs on a worker. wake() is called from libtorrent's thread. No C++
 * exception leaves. Owner: store. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef STORE_TORRENT_H
#define STORE_TORRENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "daemon/store/extents.h"
#include "proto/record.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- making metainfo --- */

struct torrent_maker;
/* names: base names, all different; title: of the folder when there are several. Sizes in bytes, none 0. */
int torrent_maker_new(struct torrent_maker **out, const char *title, const char *const *names, const uint64_t *sizes,
		      size_t n, char *why, size_t why_size);
/* Each file's bytes, from its first to its last, one file after the other. */
int torrent_maker_feed(struct torrent_maker *maker, size_t file, const uint8_t *bytes, size_t n);
/* After the last byte: the metainfo (heap), and of each file, in the order given, its v2 root and SHA-256. */
int torrent_maker_finish(struct torrent_maker *maker, uint8_t **info, size_t *info_length, uint8_t (*roots)[KEY_BYTES],
			 uint8_t (*sha256)[KEY_BYTES], char *why, size_t why_size);
void torrent_maker_free(struct torrent_maker *maker);

/* --- reading it --- */

/* How body's files lie in the pieces of body's metainfo. The metainfo must have exactly those files, by v2 root and
 * size, and the hashes of their pieces: else ERR_MALFORMED. */
int torrent_layout(const struct manifest_body *body, struct layout *out, char *why, size_t why_size);

/* --- exchanging pieces --- */

struct torrent_stamp {               /* a file as it was when it was hashed */
	uint64_t size;
	int64_t mtime_ns;
};

enum torrent_event_kind {
	TORRENT_STATUS,              /* have, checking, rate, peers */
	TORRENT_STOPPED,             /* a file could not be read or written, or the metainfo contradicts itself: why, err */
	TORRENT_BAD_PIECE,           /* a piece that arrived failed its hash and was refused: piece */
	TORRENT_CHANGED,             /* a published file is not what was hashed any more */
	TORRENT_REMOVED,             /* no file of it is open any more */
	TORRENT_DRAINED,             /* everything from before torrent_session_drain() was reported; id 0 */
};
struct torrent_event {
	enum torrent_event_kind kind;
	uint32_t id;
	bool checking;               /* STATUS: have is not known yet */
	unsigned permille;           /* of checking */
	const uint8_t *have;         /* STATUS: hash-checked pieces; n_pieces bits; borrowed for the call */
	uint32_t n_pieces;
	uint64_t rate;               /* bytes a second that arrive */
	unsigned peers;              /* connected */
	uint32_t piece;
	int err;
	char why[200];
};

struct torrent_session;
/* host "": every address, IPv4 and IPv6. A port that cannot be had is an error that says so. */
int torrent_session_open(struct torrent_session **out, const char *host, uint16_t port, void (*wake)(void *arg), void *arg,
			 char *why, size_t why_size);
uint16_t torrent_session_port(const struct torrent_session *session);
void torrent_session_close(struct torrent_session *session);           /* blocks until every file is closed */

struct torrent_add {
	const struct manifest_body *body;
	const struct layout *layout;
	const char *const *paths;           /* absolute, one a file, in the manifest's order */
	const uint8_t *have;                /* pieces known to be good; NULL: read and check everything */
	const struct torrent_stamp *stamps; /* NULL: fetched here. Else published: never written */
	const uint8_t *want, *first;        /* as extents_wanted(); ignored for published files */
};
/* id: the caller's, never 0, never used twice. What goes wrong later comes as TORRENT_STOPPED. */
int torrent_session_add(struct torrent_session *session, uint32_t id, const struct torrent_add *add, char *why,
			size_t why_size);
void torrent_session_want(struct torrent_session *session, uint32_t id, const uint8_t *want, const uint8_t *first);
void torrent_session_retry(struct torrent_session *session, uint32_t id);      /* after TORRENT_STOPPED */
void torrent_session_remove(struct torrent_session *session, uint32_t id);     /* leaves the files */
void torrent_session_set_peers(struct torrent_session *session, const struct sockaddr_storage *peers, size_t n);

void torrent_session_poll(struct torrent_session *session);       /* asks for the status of what moved; redials */
void torrent_session_drain(struct torrent_session *session);      /* stops transfers; then a last status of each, then DRAINED */
/* After wake(): every event there is, oldest first. on_event may call the functions above, but not close. */
void torrent_session_events(struct torrent_session *session, void (*on_event)(void *arg, const struct torrent_event *event),
			    void *arg);

#ifdef __cplusplus
}
#endif

#endif
