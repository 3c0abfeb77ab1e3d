/* directory.h: what a GGUF file says about itself: metadata keys and where each tensor lies.
 *
 * The engine's own reader, before libllama sees a byte: every count is bounded and covered by the bytes that
 * are there, every tensor lies inside its file, and a refusal says which file and what is wrong with it. Versions 2
 * and 3, little-endian. Files that gguf-split made (-00001-of-0000N.gguf) are one directory: keys of the first
 * file, tensors of all.
 *
 * Source of the format: ggml's docs/gguf.md and gguf.h. Owner: the caller's storage. Thread: one.
 *
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef ENGINE_DIRECTORY_H
#define ENGINE_DIRECTORY_H

#include "engine/source.h"

#define DIRECTORY_HEADER_MAX (256u << 20)    /* bytes of metadata and tensor directory of one file */
#define DIRECTORY_KEYS_MAX 4096
#define DIRECTORY_TENSORS_MAX 65536
#define DIRECTORY_KEY_SIZE 128               /* with the NUL */
#define DIRECTORY_NAME_SIZE 64               /* a tensor's, with the NUL: ggml's own limit */
#define DIRECTORY_DIMS 4
#define DIRECTORY_EMBD_MAX 65536             /* a chunk of rows must fit a frame: FRAME_TAIL_MAX */

enum value_type {                            /* gguf's numbers */
	VALUE_U8 = 0, VALUE_I8 = 1, VALUE_U16 = 2, VALUE_I16 = 3, VALUE_U32 = 4, VALUE_I32 = 5, VALUE_F32 = 6,
	VALUE_BOOL = 7, VALUE_STRING = 8, VALUE_ARRAY = 9, VALUE_U64 = 10, VALUE_I64 = 11, VALUE_F64 = 12,
};

struct directory_key {
	char name[DIRECTORY_KEY_SIZE];
	uint32_t type;                       /* enum value_type */
	uint32_t item;                       /* of an array; never VALUE_ARRAY */
	uint64_t count;                      /* of an array; otherwise 1 */
	size_t at, length;                   /* the value's bytes in the header, without an array's type and count */
};
struct directory_tensor {
	char name[DIRECTORY_NAME_SIZE];
	uint32_t n_dims;
	int64_t ne[DIRECTORY_DIMS];
	uint32_t type;                       /* enum ggml_type, known to this libggml */
	int32_t layer;                       /* of "blk.N."; -1: none */
	uint32_t file;
	uint64_t offset, size;               /* bytes in that file */
};
struct directory {
	struct buf header;                   /* of the first file: metadata and tensor directory */
	uint64_t header_lengths[MODEL_FILES_MAX];
	size_t n_keys;
	struct directory_key *keys;          /* heap */
	size_t n_tensors;
	struct directory_tensor *tensors;    /* heap */
	char architecture[32];
	uint32_t n_layer, n_embd, n_vocab, context;
	bool tied;                           /* no output.weight: the embedding is the output matrix too */
};

/* Reads and checks. ERR_MODEL, ERR_LIMIT, ERR_UNSUPPORTED, or what source_read() says. Also when it fails
 * the directory may be released. */
int directory_read(struct directory *directory, const struct source *source, char *why, size_t why_size);
void directory_release(struct directory *directory);

const struct directory_key *directory_find(const struct directory *directory, const char *name);
const uint8_t *directory_value(const struct directory *directory, const struct directory_key *key);
/* The key "<architecture>.<name>". */
const struct directory_key *directory_find_own(const struct directory *directory, const char *name);
/* A whole number of any width that is not negative; false when there is none. */
bool directory_uint(const struct directory *directory, const struct directory_key *key, uint64_t *out);
/* Element i of a number array, or the number itself. */
bool directory_uint_at(const struct directory *directory, const struct directory_key *key, uint64_t i, uint64_t *out);
bool directory_str(const struct directory *directory, const struct directory_key *key, char *out, size_t size);
/* Element i of a string array, cut to size. */
bool directory_str_at(const struct directory *directory, const struct directory_key *key, uint64_t i, char *out, size_t size);
const struct directory_tensor *directory_tensor(const struct directory *directory, const char *name);

size_t value_size(uint32_t type);            /* bytes of a number or bool; 0 for strings and arrays */

#endif
