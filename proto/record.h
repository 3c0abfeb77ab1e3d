/* record.h: signed bytes (DESIGN D12), and what each kind of record says.
 *
 * A record on the wire and on disk is the msgpack array [payload: bin, signature: bin 64]. The signature is
 * Ed25519 over  "essaim-record-1" NUL kind-name NUL payload.  The payload is a msgpack map that is never
 * re-serialised: what was signed is what is kept and passed on. Common keys of every payload:
 *
 *   "kind" uint, "signer" bin 32 (Ed25519), "association" bin 32, "subject" bin 32, "sequence" uint,
 *   "issued" uint (Unix seconds), "expires" uint (Unix seconds)
 *
 * For one (kind, association, subject) only the newest sequence counts; expiry always counts. What a signer may say is
 * trust's business (daemon/trust); here are bytes, signatures and shapes only.
 *
 *   kind         signer        subject
 *   ASSOCIATION  root          root key               name, the root's own card of existence
 *   STEWARD      root          root key               which steward key signs for it, at most 90 days
 *   ROSTER       steward       root key               which nodes it answers for
 *   CARD         node          node key               name, link key, addresses
 *   ADVERT       node          node key               budget, load, what it holds and runs
 *   AGREEMENT    steward       grantee's root key     association grants subject the use of its nodes
 *   ACCEPTANCE   steward       grantor's root key     association accepts that grantor's agreement
 *   MANIFEST     node          model id               what a model file is made of (D15)
 *   APPROVAL     steward       model id               association lets its nodes run this model
 *   RECEIPT      stage's node  session id (padded)    who did how much for whom; countersigned
 *
 * Thread: any. Owner: the caller's storage.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_RECORD_H
#define PROTO_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"
#include "proto/pack.h"

#define KEY_BYTES 32              /* Ed25519 and X25519 public keys, hashes, model ids */
#define SIGNATURE_BYTES 64
#define SIGN_SECRET_BYTES 64      /* libsodium's Ed25519 secret key */
#define RECORD_MAX (256u << 10)   /* bytes of one record */
#define NAME_SIZE 64              /* names, with the NUL; see text_is_name() */
#define RECORD_FUTURE_S 300       /* how far in the future "issued" may lie: clocks differ */
#define STEWARD_DAYS_MAX 90

enum record_kind {
	RECORD_ASSOCIATION = 1,
	RECORD_STEWARD = 2,
	RECORD_ROSTER = 3,
	RECORD_CARD = 4,
	RECORD_ADVERT = 5,
	RECORD_AGREEMENT = 6,
	RECORD_ACCEPTANCE = 7,
	RECORD_MANIFEST = 8,
	RECORD_APPROVAL = 9,
	RECORD_RECEIPT = 10,
};
const char *record_kind_name(enum record_kind kind);

struct record {                    /* a view of verified bytes */
	enum record_kind kind;
	uint8_t signer[KEY_BYTES];
	uint8_t association[KEY_BYTES];
	uint8_t subject[KEY_BYTES];
	uint64_t sequence, issued, expires;
	uint8_t hash[KEY_BYTES];       /* BLAKE2b-256 of the whole record: its name in digests */
	const uint8_t *bytes;          /* the record as it travels */
	size_t length;
	const uint8_t *payload;
	size_t payload_length;
};

/* Shape, limits and signature; not expiry (the clock is the caller's: see record_is_current()) and not
 * whether the signer may say so. ERR_MALFORMED, ERR_LIMIT, ERR_SIGNATURE, or ERR_UNSUPPORTED for a kind of a later
 * version. The view points into bytes. */
int record_open(struct record *out, const uint8_t *bytes, size_t n);
/* The same without the signature, for a caller that knows it verified these very bytes before (by their hash). */
int record_parse(struct record *out, const uint8_t *bytes, size_t n);
/* 0 when the kind's own xxx_read() takes the body. */
int record_check_body(const struct record *record);
/* 0, or ERR_EXPIRED when now is past expires or issued is over RECORD_FUTURE_S ahead of now. */
int record_is_current(const struct record *record, uint64_t now);

/* Signs and appends a whole record. head's kind, association, subject, sequence, issued and expires are
 * taken; signer is the public half of secret. body(w, arg) writes the kind's own keys: exactly `pairs` of them.
 * What record_open() or xxx_read() would refuse is not signed: the same errors. */
int record_sign(struct buf *out, const struct record *head, const uint8_t secret[SIGN_SECRET_BYTES], size_t pairs,
		void (*body)(struct pack_writer *w, const void *arg), const void *arg);

/* --- bodies. xxx_sign(): appends a record; xxx_read(): fills from a record of that kind. ---------------
 * Arrays have fixed limits; a body that does not fit is ERR_LIMIT. Large bodies are heap and want
 * xxx_free(). In sign calls `head` needs sequence, issued, expires, association and (where the table above
 * does not fix it) subject. */

struct association_body {
	char name[NAME_SIZE];
};
struct steward_body {
	uint8_t steward[KEY_BYTES];
};

#define ROSTER_NODES_MAX 256
struct roster_body {
	size_t n_nodes;
	uint8_t (*nodes)[KEY_BYTES];   /* heap */
};

#define CARD_ADDRESSES_MAX 8
#define ADDRESS_SIZE 72            /* "host:port", "[v6]:port", with the NUL */
struct card_body {
	char name[NAME_SIZE];
	uint8_t link_key[KEY_BYTES];   /* X25519 static */
	unsigned version_low, version_high;      /* protocol versions spoken */
	size_t n_addresses;
	char addresses[CARD_ADDRESSES_MAX][ADDRESS_SIZE];
	uint16_t torrent_port;         /* 0: none; the host is that of the addresses */
	bool left;                     /* its last word: it has left the association */
};
bool card_address_is_valid(const char *address);       /* "host:port", "192.0.2.1:port" or "[v6]:port" */

/* A half-open range of layers [first, end). A range with first == 0 has the embedding; one with
 * end == the model's n_layer has the output norm, the output matrix and the sampler. */
struct layer_range {
	uint32_t first, end;
};
#define RANGES_MAX 8

#define ADVERT_MODELS_MAX 64
struct advert_model {
	uint8_t model[KEY_BYTES];
	size_t n_placed;               /* what placement chose here: wanted or already here */
	struct layer_range placed[RANGES_MAX];
	size_t n_resident;             /* loaded and ready to serve now */
	struct layer_range resident[RANGES_MAX];
	bool complete;                 /* every byte of the file or files is on disk: seeds all */
	uint32_t layer_microseconds;   /* measured, one row through one layer; 0: not measured yet */
	uint32_t sessions_free;        /* more sessions that fit now */
};
struct advert_body {
	uint64_t budget_bytes;         /* memory shared, in all */
	uint64_t free_bytes;           /* of it, not used by resident shards */
	uint32_t load_permille;        /* of the threads shared, the last minute; 1000 at most */
	bool paused;                   /* shares nothing just now */
	bool home;                     /* answers its own members: wants the two ends of each model */
	char engine[NAME_SIZE];        /* "llama 0.7.0 q1a2b3c4 cpu": library, quirk table, back end (D2) */
	size_t n_models;
	struct advert_model *models;   /* heap */
};

#define AGREEMENT_MODELS_MAX 32
struct agreement_body {
	bool revoked;
	size_t n_models;               /* 0: any model both approve */
	uint8_t models[AGREEMENT_MODELS_MAX][KEY_BYTES];
	uint64_t tokens_per_day;       /* rows computed at any stage, prompt and answer; 0: none at all */
	uint64_t stage_seconds_per_day;
	uint32_t priority;             /* 0 lowest .. 9; own association is 10 */
};
struct acceptance_body {
	uint8_t agreement[KEY_BYTES];  /* hash of the agreement accepted */
	bool declined;
};
struct approval_body {
	bool withdrawn;
};
struct receipt_body {
	uint8_t node[KEY_BYTES];       /* who computed: the signer. receipt_read() fills it; not a key of its own on the wire */
	uint8_t session[16];
	uint8_t home[KEY_BYTES];       /* node that asked */
	uint8_t home_association[KEY_BYTES];
	uint8_t model[KEY_BYTES];
	uint64_t rows, stage_microseconds, millijoules;
	bool joules_measured;          /* false: estimated */
	uint8_t countersignature[SIGNATURE_BYTES];     /* home's, over node and all of the above; zero until then */
};

/* Model id: BLAKE2b-256 over "essaim-model-1" and the ordered BitTorrent v2 roots of its files. */
#define MODEL_FILES_MAX 64
#define MODEL_FILE_MAX (UINT64_C(1) << 46)     /* bytes of one file: 64 TiB */
#define MODEL_LAYERS_MAX 1024
#define MODEL_EXTENTS_MAX 4096
#define MODEL_EMBD_MAX 65536u                  /* floats of one row: 32 of them are FRAME_TAIL_MAX */
#define MODEL_VOCAB_MAX (1u << 24)
#define CONTEXT_MAX (1u << 24)                 /* positions of one session */
struct model_file {
	char name[256];                /* base name only: no '/', no '.' in front, no control characters */
	uint64_t size;
	uint8_t root[KEY_BYTES];       /* BEP 52 pieces root */
	uint8_t sha256[KEY_BYTES];     /* the publisher's claim until someone holds the whole file; zero: not said */
};
struct model_extent {
	uint32_t group;                /* GROUP_HEADER .. GROUP_SHARED, or GROUP_LAYER + i */
	uint32_t file;                 /* index into files */
	uint64_t offset, length;       /* bytes in that file */
};
enum {
	GROUP_HEADER = 0,              /* metadata and tensor directory of each file */
	GROUP_EMBEDDING = 1,           /* token embedding and what acts once before layer 0 */
	GROUP_OUTPUT = 2,              /* output norm and matrix (the embedding again when they are tied) */
	GROUP_SHARED = 3,              /* needed by every shard (rope factors, ...) */
	GROUP_LAYER = 16,              /* + layer number */
};
struct manifest_body {
	char name[NAME_SIZE];          /* an alias: name@association */
	char architecture[32];
	char licence[64];              /* SPDX, or "private" */
	bool private_;                 /* to rostered nodes of the association only */
	char quantisation[32];         /* as the file says: "Q8_0" */
	char languages[64];            /* "fr,en" or "" */
	uint32_t n_layer, n_embd, n_vocab, context;
	uint64_t parameters;
	bool splittable;               /* false: whole on one node only */
	char why_whole[128];           /* when not splittable */
	/* Boundaries where a shard may not begin or end, although the model is splittable (both kinds of layer of a
	 * patterned model must stay in every shard): bit c % 8 of byte c / 8 for the boundary before layer c.
	 * Read it with manifest_may_cut(). Key "no_cut", bin of n_layer / 8 + 1 bytes; absent: none. */
	uint8_t no_cut[MODEL_LAYERS_MAX / 8 + 1];
	uint32_t row_bytes;            /* activations between stages: n_embd * 4 */
	uint64_t kv_bytes_token_layer; /* KV or state bytes, one position in one layer, the largest layer */
	uint32_t memory_permille;      /* weights in memory over weights in the file: kernels may keep them repacked, with extra fields. As
					* the publisher's CPU takes them, the largest layout; 1000 .. 4000, absent: 1000 */
	uint64_t compute_bytes;        /* compute buffers of one shard at the fixed chunk, as the engine measured */
	bool chat_template;            /* false: completions only */
	size_t n_files;
	struct model_file *files;      /* heap */
	size_t n_extents;
	struct model_extent *extents;  /* heap; sorted by group, file, offset; within a group they do not overlap */
	size_t info_length;            /* the torrent's metainfo (bencoded, hybrid, with piece layers); may be 0 */
	uint8_t *info;                 /* heap */
};

int association_sign(struct buf *out, struct record *head, const struct association_body *b, const uint8_t *root_secret);
int association_read(const struct record *r, struct association_body *b);
int steward_sign(struct buf *out, struct record *head, const struct steward_body *b, const uint8_t *root_secret);
int steward_read(const struct record *r, struct steward_body *b);
int roster_sign(struct buf *out, struct record *head, const struct roster_body *b, const uint8_t *steward_secret);
int roster_read(const struct record *r, struct roster_body *b);
void roster_free(struct roster_body *b);
int card_sign(struct buf *out, struct record *head, const struct card_body *b, const uint8_t *node_secret);
int card_read(const struct record *r, struct card_body *b);
int advert_sign(struct buf *out, struct record *head, const struct advert_body *b, const uint8_t *node_secret);
int advert_read(const struct record *r, struct advert_body *b);
void advert_free(struct advert_body *b);
int agreement_sign(struct buf *out, struct record *head, const struct agreement_body *b, const uint8_t *steward_secret);
int agreement_read(const struct record *r, struct agreement_body *b);
int acceptance_sign(struct buf *out, struct record *head, const struct acceptance_body *b, const uint8_t *steward_secret);
int acceptance_read(const struct record *r, struct acceptance_body *b);
int approval_sign(struct buf *out, struct record *head, const struct approval_body *b, const uint8_t *steward_secret);
int approval_read(const struct record *r, struct approval_body *b);
int receipt_sign(struct buf *out, struct record *head, const struct receipt_body *b, const uint8_t *node_secret);
int receipt_read(const struct record *r, struct receipt_body *b);
/* Home's signature over a receipt it agrees with: into out; the record is signed again by the stage with it. Both take b->node
 * into account, so a stage that checks its own receipt fills it. ERR_DENIED when the secret is not b->home's. */
int receipt_countersign(const struct receipt_body *b, const uint8_t *home_secret, uint8_t out[SIGNATURE_BYTES]);
int receipt_verify_countersignature(const struct receipt_body *b);
int manifest_sign(struct buf *out, struct record *head, const struct manifest_body *b, const uint8_t *node_secret);
int manifest_read(const struct record *r, struct manifest_body *b);
void manifest_free(struct manifest_body *b);
/* The body alone as one msgpack map: how an engine hands its findings to the daemon that will sign them. */
int manifest_pack(struct pack_writer *w, const struct manifest_body *b);
int manifest_unpack(struct pack_cursor c, struct manifest_body *b);
void model_id(uint8_t out[KEY_BYTES], const struct model_file *files, size_t n);

/* Bytes of weights that a shard of these ranges reads (what two groups share, as tied embeddings do, counts once), and which extents those are. Pure; used by placement, store and
 * engine alike. GROUP_HEADER counts always, GROUP_SHARED always, GROUP_EMBEDDING with first == 0, GROUP_OUTPUT
 * with end == n_layer. */
bool manifest_group_in(const struct manifest_body *b, uint32_t group, const struct layer_range *ranges, size_t n);
uint64_t manifest_bytes(const struct manifest_body *b, const struct layer_range *ranges, size_t n);

/* True when a shard may begin or end before layer c. 0 and n_layer always; others only in a splittable model. */
static inline bool manifest_may_cut(const struct manifest_body *b, uint32_t c)
{
	if (c == 0 || c == b->n_layer)
		return true;
	return b->splittable && c < b->n_layer && !(b->no_cut[c / 8] >> c % 8 & 1);
}

#endif
