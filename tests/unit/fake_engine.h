/* fake_engine.h: what test_stage.c may ask of a fake engine. The test program is its own engine: started as
 * "essaim-engine" it is this.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

/* contexts of a LOAD. Otherwise LOADED says: weight_bytes, the numbers in the files; kv_bytes, how many descriptors came;
 * compute_bytes, how many extents; layer_microseconds, the threads. */
enum { FAKE_CRASH_LOADING = 1001, FAKE_HANG_LOADING, FAKE_REFUSE_LOADING, FAKE_STUBBORN };
/* positions of a block; otherwise it comes back with the next stage's number */
enum { FAKE_CRASH_AT = 11, FAKE_HANG_AT, FAKE_LEAVE_AT, FAKE_NONSENSE_AT, FAKE_TICKET_AT };
enum { FAKE_UNDEFINED = 999999 };      /* of a variable of the environment */

int fake_engine_main(int argc, char **argv);

#endif
