/* link_internal.h: what the files of this folder share; nobody else includes it.
 *
 *   link.c            one link's life: ticks, failing, closing, what others ask about it
 *   link_stream.c     after the handshake: frames to messages and back, queue, credit, the link's own frames
 *   link_handshake.c  messages 1 and 2
 *   link_dial.c       names to addresses, connecting
 *   link_server.c     listening, accepting, limits by source
 *   limits.c, address.c  pure
 *
 * Thread: loop. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef LINK_LINK_INTERNAL_H
#define LINK_LINK_INTERNAL_H

#include "daemon/link/address.h"
#include "daemon/link/limits.h"
#include "daemon/link/link.h"

#define LENGTH_PREFIX 2                    /* bytes before each Noise message */
#define HANDSHAKE_MS 5000
#define HANDSHAKE_MESSAGE_MAX 8192         /* ciphertext of message 1 or 2: a card and some fields */
#define LINGER_MS 500                      /* to say goodbye */
#define OUT_TARGET (256u << 10)            /* ciphertext handed to the kernel at once */
#define CONTROL_MAX (16u << 10)            /* the link's own frames that wait: a ping flood ends here */
#define DETAIL_SIZE 200
#define RESOLVED_MAX 4                     /* addresses of one name that are tried */

enum link_state {
	LINK_RESOLVING,
	LINK_CONNECTING,
	LINK_WAIT_1,                       /* responder, for message 1 */
	LINK_WAIT_2,                       /* initiator, for message 2 */
	LINK_WAIT_FIRST,                   /* both, for the first transport message */
	LINK_UP,
	LINK_LINGERING,                    /* says what is left, then goodbye */
	LINK_CLOSED,                       /* handles are closing */
};

struct link_queued {
	struct link_queued *next;
	struct buf frame;
};

struct link {
	struct link_config config;
	void *user;
	enum link_state state;
	enum link_kind kind;
	bool dialled;
	bool probe;                        /* ends where the other side has proven its key */
	bool probe_tcp;                    /* ... or where it accepted a connection */
	struct link_server *server;        /* while its handshake counts there; NULL afterwards */
	struct source source;

	uv_tcp_t tcp;
	uv_timer_t timer;
	uv_idle_t flush;                   /* active while something was queued in this turn of the loop */
	uv_connect_t connect;
	uv_getaddrinfo_t resolve;
	uv_write_t write;
	unsigned pending;                  /* open handles and requests in flight; freed at zero */
	bool shut;                         /* our direction is closed: all was said */

	/* dialling */
	char target[ADDRESS_SIZE];         /* as given to link_dial() */
	size_t n_resolved, next_resolved;
	struct sockaddr_storage resolved[RESOLVED_MAX];
	bool reopening;                    /* tcp is closing between two attempts */
	uint8_t remote_link_key[KEY_BYTES];
	uint8_t psk[CHANNEL_KEY];
	bool invited;
	uint8_t invitation[16];
	bool refused;                      /* responder: a refusal waits to be sent */

	/* the channel and the other side */
	struct channel channel;
	bool channel_live;
	struct buf peer_payload;           /* their handshake payload; peer points into it */
	struct link_peer peer;
	char address[ADDRESS_SIZE];

	/* reading */
	struct buf partial;                /* length and ciphertext of a message that is not all there */
	struct buf plain;                  /* frames that are not all there */
	uint64_t big_at;                   /* when `plain` was last large */

	/* writing */
	struct link_queued *first, *last;  /* frames that wait; the first may be partly sealed */
	size_t first_at;                   /* bytes of the first that are sealed */
	size_t queued;                     /* bytes that wait */
	bool want_drain;
	struct buf control;                /* the link's own frames: they go between others */
	struct buf out;                    /* ciphertext; out_at bytes are with the kernel */
	size_t out_at;
	bool writing;                      /* a uv_write is in flight */
	size_t kernel_left;                /* of it, as last seen */

	struct heartbeat heartbeat;
	struct credit credit;
	uint64_t sent_seen;                /* credit.sent at the last progress */
	uint64_t ping_id, ping_us;         /* of the ping in flight; 0: none */
	double rtt_ms;
	uint64_t bytes_in, bytes_out;

	int why;
	char detail[DETAIL_SIZE];
};

/* link.c */
struct link *link_new(const struct link_config *config);                      /* handles are open; pending counts them */
/* Ends the link: on_closed(why, detail) follows. Keeps the first reason. Says BYE when a channel stands. */
void link_fail(struct link *link, int why, const char *format, ...) __attribute__((format(printf, 3, 4)));
void link_destroy(struct link *link);                                         /* closes handles, now */
void link_on_timer(uv_timer_t *timer);
void link_done(struct link *link);                                            /* one handle or request less */
void link_connected(struct link *link);                                       /* TCP is there, both roles: begin */
void link_is_up(struct link *link);                                           /* their first transport message was good */

/* link_stream.c */
void link_read_start(struct link *link);
void link_stream_begin(struct link *link);                                    /* the channel stands: HELLO goes */
int link_control(struct link *link, enum frame_type type, const struct buf *head);  /* NULL: an empty map */
void link_flush(struct link *link);
void link_flush_soon(struct link *link);
bool link_has_output(const struct link *link);
int link_write_raw(struct link *link, const struct buf *message);             /* length and message, at once */
void link_queue_clear(struct link *link);
void link_queue_goodbye(struct link *link, const struct buf *head);           /* BYE, behind what waits */

/* link_handshake.c */
int link_handshake_start(struct link *link);                                  /* initiator: sends message 1 */
void link_handshake_message(struct link *link, const uint8_t *message, size_t n);

/* link_server.c */
void link_server_handshake_done(struct link *link);

#endif
