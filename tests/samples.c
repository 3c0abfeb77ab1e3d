/* samples.c: one honest example of everything that proto signs or frames, from fixed keys.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include "tests/samples.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/signed.h"
#include "proto/text.h"

struct sample_key sample_root, sample_steward, sample_node, sample_home, sample_other;

/* Not assert(): these must hold in a build without it too. */
static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "samples: %s failed\n", what);
	abort();
}
#define MUST(ok) must((ok), #ok)

static void make_key(struct sample_key *key, uint8_t seed_byte)
{
	uint8_t seed[crypto_sign_SEEDBYTES];
	memset(seed, seed_byte, sizeof(seed));
	MUST(crypto_sign_seed_keypair(key->public, key->secret, seed) == 0);
}

void samples_init(void)
{
	MUST(sodium_init() >= 0);
	make_key(&sample_root, 1);
	make_key(&sample_steward, 2);
	make_key(&sample_node, 3);
	make_key(&sample_home, 4);
	make_key(&sample_other, 5);
}

struct record sample_head(void)
{
	struct record head = { .sequence = 7, .issued = SAMPLE_ISSUED, .expires = SAMPLE_EXPIRES };
	memcpy(head.association, sample_root.public, KEY_BYTES);
	memcpy(head.subject, sample_other.public, KEY_BYTES);
	return head;
}

const struct sample_key *sample_signer(enum record_kind kind)
{
	switch (kind) {
	case RECORD_ASSOCIATION:
	case RECORD_STEWARD:
		return &sample_root;
	case RECORD_ROSTER:
	case RECORD_AGREEMENT:
	case RECORD_ACCEPTANCE:
	case RECORD_APPROVAL:
		return &sample_steward;
	case RECORD_CARD:
	case RECORD_ADVERT:
	case RECORD_MANIFEST:
	case RECORD_RECEIPT:
		break;
	}
	return &sample_node;
}

static void copy_text(char *out, size_t size, const char *text)
{
	MUST(text_copy(out, size, text) == 0);
}
#define SET(field, text) copy_text(field, sizeof(field), text)

/* --- bodies ------------------------------------------------------------------------------------------ */

static int sign_association(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct association_body b = { 0 };
	SET(b.name, "Abeille");
	return association_sign(out, head, &b, secret);
}

static int sign_steward(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct steward_body b;
	memcpy(b.steward, sample_steward.public, KEY_BYTES);
	return steward_sign(out, head, &b, secret);
}

static int sign_roster(struct buf *out, struct record *head, const uint8_t *secret)
{
	uint8_t nodes[2][KEY_BYTES];
	memcpy(nodes[0], sample_node.public, KEY_BYTES);
	memcpy(nodes[1], sample_home.public, KEY_BYTES);
	struct roster_body b = { .n_nodes = 2, .nodes = nodes };
	return roster_sign(out, head, &b, secret);
}

static int sign_card(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct card_body b = { .version_low = 1, .version_high = 2, .n_addresses = 2, .torrent_port = 7742 };
	SET(b.name, "ruche-1");
	memset(b.link_key, 9, KEY_BYTES);
	SET(b.addresses[0], "node.example.org:7740");
	SET(b.addresses[1], "[2001:db8::1]:7740");
	return card_sign(out, head, &b, secret);
}

static int sign_advert(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct advert_model models[2] = {
		{ .n_placed = 2, .placed = { { 0, 8 }, { 24, 32 } }, .n_resident = 1, .resident = { { 0, 8 } },
		  .layer_microseconds = 950, .sessions_free = 3 },
		{ .complete = true },
	};
	memset(models[0].model, 0x51, KEY_BYTES);
	memset(models[1].model, 0x52, KEY_BYTES);
	struct advert_body b = { .budget_bytes = UINT64_C(8) << 30, .free_bytes = UINT64_C(3) << 30,
				 .load_permille = 125, .home = true, .n_models = 2, .models = models };
	SET(b.engine, "llama 0.7.0 q1a2b3c4 cpu");
	return advert_sign(out, head, &b, secret);
}

static int sign_agreement(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct agreement_body b = { .n_models = 1, .tokens_per_day = 1000000, .stage_seconds_per_day = 36000, .priority = 5 };
	memset(b.models[0], 0x51, KEY_BYTES);
	return agreement_sign(out, head, &b, secret);
}

static int sign_acceptance(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct acceptance_body b = { .declined = false };
	memset(b.agreement, 0x61, KEY_BYTES);
	return acceptance_sign(out, head, &b, secret);
}

static int sign_approval(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct approval_body b = { .withdrawn = false };
	return approval_sign(out, head, &b, secret);
}

static int sign_receipt(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct receipt_body b = { .rows = 300, .stage_microseconds = 4500000, .millijoules = 90000, .joules_measured = true };
	memcpy(b.node, sample_node.public, KEY_BYTES);
	memset(b.session, 0x71, sizeof(b.session));
	memcpy(b.home, sample_home.public, KEY_BYTES);
	memcpy(b.home_association, sample_other.public, KEY_BYTES);
	memset(b.model, 0x51, KEY_BYTES);
	MUST(receipt_countersign(&b, sample_home.secret, b.countersignature) == 0);
	return receipt_sign(out, head, &b, secret);
}

void sample_manifest(struct manifest_body *b)
{
	/* Two files; the output matrix is the embedding again, as in models with tied embeddings. */
	static const struct model_extent extents[] = {
		{ GROUP_HEADER, 0, 0, 4096 },
		{ GROUP_HEADER, 1, 0, 512 },
		{ GROUP_EMBEDDING, 0, 4096, 65536 },
		{ GROUP_OUTPUT, 0, 4096, 65536 },
		{ GROUP_OUTPUT, 1, 90000, 256 },
		{ GROUP_SHARED, 1, 512, 128 },
		{ GROUP_LAYER + 0, 0, 69632, 10000 },
		{ GROUP_LAYER + 1, 0, 79632, 10000 },
		{ GROUP_LAYER + 1, 1, 640, 100 },
		{ GROUP_LAYER + 2, 1, 740, 20000 },
		{ GROUP_LAYER + 3, 1, 20740, 20000 },
		{ GROUP_LAYER + 3, 1, 50000, 7 },
	};
	*b = (struct manifest_body){
		.n_layer = SAMPLE_LAYERS, .n_embd = 64, .n_vocab = 512, .context = 2048, .parameters = 260000,
		.splittable = true, .row_bytes = 256, .kv_bytes_token_layer = 512, .memory_permille = 1120, .compute_bytes = 1u << 20,
		.chat_template = true, .n_files = 2, .n_extents = sizeof(extents) / sizeof(*extents), .info_length = 9,
	};
	SET(b->name, "stories");
	SET(b->architecture, "llama");
	SET(b->licence, "MIT");
	SET(b->quantisation, "Q8_0");
	SET(b->languages, "en");
	b->files = calloc(b->n_files, sizeof(*b->files));
	b->extents = calloc(b->n_extents, sizeof(*b->extents));
	b->info = malloc(b->info_length);
	MUST(b->files && b->extents && b->info);
	SET(b->files[0].name, "stories-00001-of-00002.gguf");
	SET(b->files[1].name, "stories-00002-of-00002.gguf");
	b->files[0].size = 89632;
	b->files[1].size = 90256;
	memset(b->files[0].root, 0x81, KEY_BYTES);
	memset(b->files[1].root, 0x82, KEY_BYTES);
	memcpy(b->extents, extents, sizeof(extents));
	memcpy(b->info, "d4:infode", b->info_length);
}

static int sign_manifest(struct buf *out, struct record *head, const uint8_t *secret)
{
	struct manifest_body b;
	sample_manifest(&b);
	int err = manifest_sign(out, head, &b, secret);
	manifest_free(&b);
	return err;
}

void sample_record(struct buf *out, enum record_kind kind)
{
	static int (*const signers[])(struct buf *out, struct record *head, const uint8_t *secret) = {
		[RECORD_ASSOCIATION] = sign_association, [RECORD_STEWARD] = sign_steward,
		[RECORD_ROSTER] = sign_roster, [RECORD_CARD] = sign_card,
		[RECORD_ADVERT] = sign_advert, [RECORD_AGREEMENT] = sign_agreement,
		[RECORD_ACCEPTANCE] = sign_acceptance, [RECORD_MANIFEST] = sign_manifest,
		[RECORD_APPROVAL] = sign_approval, [RECORD_RECEIPT] = sign_receipt,
	};
	struct record head = sample_head();
	MUST(signers[kind](out, &head, sample_signer(kind)->secret) == 0);
}

void sample_forge(struct buf *out, enum record_kind kind, const struct buf *payload, const struct sample_key *signer)
{
	char domain[SIGNED_DOMAIN_MAX];
	int n = snprintf(domain, sizeof(domain), "essaim-record-1%c%s", 0, record_kind_name(kind));
	MUST(signed_append(out, 2 * RECORD_MAX, domain, (size_t)n + 1, payload, signer->secret) == 0);
}

struct ticket sample_ticket(void)
{
	struct ticket t = { .epoch = 2, .stage = 1, .n_stages = 3, .range = { 8, 16 }, .context = 4096,
			    .issued = SAMPLE_ISSUED, .expires = SAMPLE_ISSUED + 600 };
	memset(t.session, 0x71, SESSION_BYTES);
	memcpy(t.home, sample_home.public, KEY_BYTES);
	memcpy(t.home_association, sample_other.public, KEY_BYTES);
	memset(t.model, 0x51, KEY_BYTES);
	memcpy(t.node, sample_node.public, KEY_BYTES);
	memcpy(t.previous, sample_home.public, KEY_BYTES);
	memset(t.next, 0x91, KEY_BYTES);
	return t;
}

/* --- messages ---------------------------------------------------------------------------------------- */

static int message_ticket(struct buf *out)
{
	struct ticket t = sample_ticket();
	struct buf bytes;
	buf_init(&bytes, TICKET_MAX);
	int err = ticket_sign(&bytes, &t, sample_home.secret);
	struct ticket_message m = { .ticket = bytes.data, .ticket_length = bytes.length, .forks = true, .from = { 7 } };
	if (!err)
		err = ticket_message_encode(out, &m);
	buf_release(&bytes);
	return err;
}

static int message_ready(struct buf *out)
{
	struct ready_message m = { .epoch = 2, .stage = 1 };
	memset(m.session, 0x71, SESSION_BYTES);
	return ready_encode(out, &m);
}

/* A prefill chunk of one session and a decoded row of another: tokens and floats in one frame. */
static int message_rows(struct buf *out)
{
	static const uint8_t tokens[3 * 4] = { 1, 0, 0, 0, 2, 1, 0, 0, 3, 0, 2, 0 };
	static const uint8_t floats[4 * 4] = { 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0, 0, 0x40, 0x40, 0, 0, 0x80, 0x40 };
	struct rows_message m = { .n_blocks = 2, .blocks = {
		{ .epoch = 2, .stage = 0, .sequence = 0, .position = 0, .count = 3, .want = 0, .encoding = ENCODING_TOKEN,
		  .rows = tokens, .rows_length = sizeof(tokens) },
		{ .epoch = 1, .stage = 1, .sequence = 41, .position = 512, .count = 1, .want = 1, .encoding = ENCODING_F32,
		  .microseconds = 5200, .rows = floats, .rows_length = sizeof(floats) },
	} };
	memset(m.blocks[0].session, 0x71, SESSION_BYTES);
	memset(m.blocks[1].session, 0x72, SESSION_BYTES);
	return rows_encode(out, &m);
}

static int message_tokens(struct buf *out)
{
	struct tokens_message m = { .epoch = 1, .sequence = 41, .position = 513, .microseconds = 800, .n_tokens = 2, .tokens = {
		{ .id = 259, .logprob = -0.5f, .piece_length = 5, .piece = (const uint8_t *)" once", .n_top = 2, .top = {
			{ .id = 259, .logprob = -0.5f, .piece_length = 5, .piece = (const uint8_t *)" once" }, { .id = 3, .logprob = -1 } } },
		{ .id = 2, .logprob = -2.25f, .end = true },
	} };
	memset(m.session, 0x72, SESSION_BYTES);
	return tokens_encode(out, &m);
}

static int message_fault(struct buf *out)
{
	struct fault_message m = { .epoch = 1, .stage = 1, .code = ERR_NEED_REPLAY, .position = 480 };
	memset(m.session, 0x72, SESSION_BYTES);
	SET(m.detail, "positions before 480 left the window");
	return fault_encode(out, &m);
}

static int message_close(struct buf *out)
{
	struct close_message m = { .epoch = 1, .stage = UINT32_MAX, .reason = ERR_CANCELLED, .keep_s = 600 };
	memset(m.session, 0x72, SESSION_BYTES);
	return close_encode(out, &m);
}

static int message_engine_hello(struct buf *out)
{
	struct engine_hello m = { .sandboxed = true };
	SET(m.engine, "llama 0.7.0 q1a2b3c4 cpu");
	return engine_hello_encode(out, &m);
}

static int message_engine_inspect(struct buf *out)
{
	static struct engine_inspect m = { .request = 5, .n_files = 2, .context = 2048 };
	SET(m.names[0], "stories-00001-of-00002.gguf");
	SET(m.names[1], "stories-00002-of-00002.gguf");
	return engine_inspect_encode(out, &m);
}

static int message_engine_inspected(struct buf *out)
{
	struct engine_inspected m = { .request = 5 };
	sample_manifest(&m.manifest);
	int err = engine_inspected_encode(out, &m);
	manifest_free(&m.manifest);
	return err;
}

static int message_engine_load(struct buf *out)
{
	struct model_extent extents[] = { { .file = 0, .offset = 0, .length = 89632 }, { .file = 1, .offset = 512, .length = 128 } };
	struct engine_load m = { .request = 6, .n_files = 2, .n_ranges = 2, .ranges = { { 0, 2 }, { 3, 4 } },
				 .n_layer = SAMPLE_LAYERS, .context = 2048, .sessions = 4, .threads = 2,
				 .memory_max = 1u << 30, .n_extents = 2, .extents = extents };
	return engine_load_encode(out, &m);
}

static int message_engine_loaded(struct buf *out)
{
	struct engine_loaded m = { .request = 6, .weight_bytes = 100000, .kv_bytes = 4u << 20, .compute_bytes = 1u << 20,
				   .n_embd = 64, .n_vocab = 512, .truncate = TRUNCATE_LAST, .layer_microseconds = 90 };
	return engine_loaded_encode(out, &m);
}

static int message_engine_open(struct buf *out)
{
	struct engine_open m = { .epoch = 2, .stage = 2, .forks = true, .from = { 7 }, .range = { 2, 4 }, .context = 2048, .sampling = {
		.temperature = 0.75f, .top_p = 0.9375f, .min_p = 0.0625f, .top_k = 40, .repeat_penalty = 1.125f,
		.presence_penalty = -0.5f, .frequency_penalty = 0.25f, .seed = UINT64_MAX, .ignore_end = true, .top = 3,
		.n_bias = 2, .bias = (const uint8_t *)"\x07\0\0\0\0\0\x80\x3f" "\x09\0\0\0\0\0\xc8\xc2",    /* 7: 1, 9: -100 */
		.grammar = "root ::= \"a\"", .grammar_length = 12 } };
	memset(m.session, 0x71, SESSION_BYTES);
	return engine_open_encode(out, &m);
}

static int message_engine_render(struct buf *out)
{
	static const char hello[] = "Bonjour, \xc3\xa7" "a va ?";
	struct render_message messages[] = { { "system", 6, "", 0 }, { "user", 4, hello, sizeof(hello) - 1 } };
	struct engine_render m = { .request = 7, .chat = true, .add_special = true, .n_messages = 2, .messages = messages };
	return engine_render_encode(out, &m);
}

static int message_engine_rendered(struct buf *out)
{
	static const uint8_t tokens[3 * 4] = { 1, 0, 0, 0, 2, 1, 0, 0, 3, 0, 2, 0 };
	struct engine_rendered m = { .request = 7, .n_tokens = 3, .tokens = tokens };
	return engine_rendered_encode(out, &m);
}

static int message_engine_fault(struct buf *out)
{
	struct engine_fault m = { .request = 6, .code = ERR_BUDGET };
	SET(m.detail, "needs 3 GiB, 1 GiB was granted");
	return engine_fault_encode(out, &m);
}

static int message_engine_progress(struct buf *out)
{
	struct engine_progress m = { .request = 6, .permille = 333 };
	return engine_progress_encode(out, &m);
}

static int (*const messages_all[])(struct buf *out) = {
	message_ticket, message_ready, message_rows, message_tokens, message_fault, message_close,
	message_engine_hello, message_engine_inspect, message_engine_inspected, message_engine_load,
	message_engine_loaded, message_engine_open, message_engine_render, message_engine_rendered,
	message_engine_fault, message_engine_progress,
};

size_t samples_of_messages(void)
{
	return sizeof(messages_all) / sizeof(*messages_all);
}

void sample_message(struct buf *out, size_t i)
{
	MUST(messages_all[i](out) == 0);
}
