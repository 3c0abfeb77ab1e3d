/* What proto's readers and writers do when memory runs out at every place in turn.
 *
 * malloc(), calloc() and realloc() of proto's own files are wrapped by the linker (--wrap): the k-th one and all that
 * follow fail. The answer must be -ENOMEM, the output as it was, and nothing may leak (ASan watches that).
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tests/samples.h"

static long left = LONG_MAX;         /* allocations that still succeed */

static bool may_allocate(void)
{
	if (left == 0)
		return false;
	left -= left != LONG_MAX;
	return true;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	return may_allocate() ? __real_malloc(size) : NULL;
}
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
	return may_allocate() ? __real_calloc(n, size) : NULL;
}
void *__real_realloc(void *data, size_t size);
void *__wrap_realloc(void *data, size_t size);
void *__wrap_realloc(void *data, size_t size)
{
	return may_allocate() ? __real_realloc(data, size) : NULL;
}

/* Runs step() with 0, 1, 2 ... allocations until it succeeds; how many it needed. */
static long starve(int (*step)(const void *arg, struct buf *out), const void *arg)
{
	for (long allowed = 0;; allowed++) {
		struct buf out;
		buf_init(&out, FRAME_MAX);
		left = allowed;
		int err = step(arg, &out);
		left = LONG_MAX;
		if (err) {
			assert_int_equal(err, -ENOMEM);
			assert_int_equal(out.length, 0);
		}
		buf_release(&out);
		if (!err)
			return allowed;
		assert_true(allowed < 1000);
	}
}

/* --- records ----------------------------------------------------------------------------------------------- */

static int open_and_read(const void *arg, struct buf *out)
{
	const struct buf *bytes = arg;
	struct record r;
	int err = record_open(&r, bytes->data, bytes->length);
	return err ? err : record_check_body(&r);
}

static int roster_again(const void *arg, struct buf *out)
{
	struct record head = sample_head();
	return roster_sign(out, &head, arg, sample_steward.secret);
}

static int advert_again(const void *arg, struct buf *out)
{
	struct record head = sample_head();
	return advert_sign(out, &head, arg, sample_node.secret);
}

static int manifest_again(const void *arg, struct buf *out)
{
	struct record head = sample_head();
	return manifest_sign(out, &head, arg, sample_node.secret);
}

static int receipt_again(const void *arg, struct buf *out)
{
	struct receipt_body b = *(const struct receipt_body *)arg;
	struct record head = sample_head();
	int err = receipt_verify_countersignature(&b);
	if (!err)
		err = receipt_countersign(&b, sample_home.secret, b.countersignature);
	return err ? err : receipt_sign(out, &head, &b, sample_node.secret);
}

static void records_survive_a_lack_of_memory(void **state)
{
	for (enum record_kind kind = RECORD_ASSOCIATION; kind <= RECORD_RECEIPT; kind++) {
		struct buf bytes;
		buf_init(&bytes, RECORD_MAX);
		sample_record(&bytes, kind);
		assert_true(starve(open_and_read, &bytes) >= 1);

		struct record r;
		struct roster_body roster;
		struct advert_body advert;
		struct manifest_body manifest;
		struct receipt_body receipt;
		assert_int_equal(record_open(&r, bytes.data, bytes.length), 0);
		if (kind == RECORD_ROSTER) {
			assert_int_equal(roster_read(&r, &roster), 0);
			assert_true(starve(roster_again, &roster) >= 4);
			roster_free(&roster);
		} else if (kind == RECORD_ADVERT) {
			assert_int_equal(advert_read(&r, &advert), 0);
			assert_true(starve(advert_again, &advert) >= 4);
			advert_free(&advert);
		} else if (kind == RECORD_MANIFEST) {
			assert_int_equal(manifest_read(&r, &manifest), 0);
			assert_true(starve(manifest_again, &manifest) >= 6);
			manifest_free(&manifest);
		} else if (kind == RECORD_RECEIPT) {
			assert_int_equal(receipt_read(&r, &receipt), 0);
			assert_true(starve(receipt_again, &receipt) >= 6);
		}
		buf_release(&bytes);
	}
}

static int ticket_again(const void *arg, struct buf *out)
{
	struct ticket t;
	int err = ticket_sign(out, arg, sample_home.secret);
	if (!err)
		err = ticket_open(&t, out->data, out->length);
	if (err)
		buf_clear(out);        /* signed, but there was no memory to look at it */
	return err;
}

static void tickets_survive_a_lack_of_memory(void **state)
{
	struct ticket t = sample_ticket();
	assert_true(starve(ticket_again, &t) >= 3);
}

/* --- messages ---------------------------------------------------------------------------------------------- */

/* Decodes what has heap in it, and encodes it again. */
static int message_again(const void *arg, struct buf *out)
{
	static struct rows_message rows;
	static struct tokens_message tokens;
	const struct buf *bytes = arg;
	struct frame f;
	size_t used;
	assert_int_equal(frame_decode(bytes->data, bytes->length, &f, &used), 0);
	struct engine_inspected inspected;
	struct engine_load load;
	struct engine_render render;
	int err = 0;
	switch ((int)f.type) {
	case FRAME_ROWS:
		err = rows_decode(&f, &rows);
		return err ? err : rows_encode(out, &rows);
	case FRAME_TOKENS:
		err = tokens_decode(&f, &tokens);
		return err ? err : tokens_encode(out, &tokens);
	case FRAME_ENGINE_INSPECTED:
		err = engine_inspected_decode(&f, &inspected);
		if (!err)
			err = engine_inspected_encode(out, &inspected);
		manifest_free(&inspected.manifest);
		return err;
	case FRAME_ENGINE_LOAD:
		err = engine_load_decode(&f, &load);
		if (!err)
			err = engine_load_encode(out, &load);
		engine_load_free(&load);
		return err;
	case FRAME_ENGINE_RENDER:
		err = engine_render_decode(&f, &render);
		if (!err)
			err = engine_render_encode(out, &render);
		engine_render_free(&render);
		return err;
	}
	return 0;
}

static void messages_survive_a_lack_of_memory(void **state)
{
	unsigned starved = 0;
	for (size_t i = 0; i < samples_of_messages(); i++) {
		struct buf bytes;
		buf_init(&bytes, FRAME_MAX);
		sample_message(&bytes, i);
		starved += starve(message_again, &bytes) >= 2;
		buf_release(&bytes);
	}
	assert_int_equal(starved, 5);
}

static int setup(void **state)
{
	samples_init();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_survive_a_lack_of_memory),
		cmocka_unit_test(tickets_survive_a_lack_of_memory),
		cmocka_unit_test(messages_survive_a_lack_of_memory),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
