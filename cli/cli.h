/* cli.h: what the files of the command line share.
 *
 * `essaim` speaks to `essaimd` over the home's unix socket (client.c), to the node's own HTTP API for chat, and runs the two other programs
 * for `init` and `model check`. Every command prints for people, or with --json exactly one object as the last line on stdout.
 * Thread: main only. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <libintl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <yyjson.h>

#include "proto/template.h"

#define _(text) gettext(text)

enum exit_status {
	EXIT_DONE = 0,
	EXIT_REFUSED = 1,     /* the daemon, or what was asked, refused */
	EXIT_USAGE = 2,
	EXIT_NO_DAEMON = 3,
	EXIT_UNKNOWN = 4,     /* no such model, node, association */
	EXIT_LATER = 5,       /* busy, or still arriving */
};

struct cli {
	const char *home;
	bool json;            /* one object on stdout, nothing else there */
	bool terminal;        /* stdout is one: colours and tables */
	bool progress;        /* stderr is a terminal and --json is not given: bars */
};

/* --- language.c: $LANG, gettext ------------------------------------------------------------------------ */

/* Errors (cli_fail, cli_usage) and tables' headings are translated where they are printed; everything else for people is written _("..."),
 * or N_("...") where it stands in a table. */
void language_choose(void);
const char *translated(const char *text);               /* "" for "" or NULL */
/* A sentence of the daemon's that came without its format (reasons.c): in the reader's language where it is known; text or out. */
const char *reason(const char *text, char *out, size_t size);
#define REASON_SIZE 1200
/* What the daemon said in an object: its template in the reader's language with its values put in, else the text under key. Returns out. */
const char *json_said(yyjson_val *object, const char *key, char *out, size_t size);

/* --- client.c: one request to essaimd ---------------------------------------------------------------- */

typedef void client_progress(struct cli *cli, yyjson_val *progress, void *arg);
/* The daemon's answer: 0 with *doc whose root is {"ok": true, "result": ...}, or an exit status after the error was printed.
 * args may be NULL and is freed. */
int client_call(struct cli *cli, const char *command, yyjson_mut_doc *args, client_progress *progress, void *arg, yyjson_doc **doc);
/* Whether an essaimd answers on the home; nothing is printed. */
bool client_has_daemon(struct cli *cli);
yyjson_val *client_result(yyjson_doc *doc);
/* With --json prints the result as one line and frees it; otherwise false. */
bool client_print_json(struct cli *cli, yyjson_doc *doc);
yyjson_mut_doc *client_args(yyjson_mut_val **root);

/* Says what went wrong and what to do, on stderr for people or as {"error": ...} on stdout; returns status. */
int cli_fail(struct cli *cli, int status, const char *code, const char *remedy, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
int cli_usage(struct cli *cli, const char *command, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* --- print.c ------------------------------------------------------------------------------------------ */

#define TABLE_COLUMNS_MAX 10
/* Rows of cells in columns as wide as their widest cell (in terminal columns, not bytes). A heading that begins with '>' is aligned to the
 * right. Not a terminal: tab-separated. */
struct table {
	size_t n_columns, n_rows, capacity;
	const char *headings[TABLE_COLUMNS_MAX];
	char **cells;         /* (n_rows, n_columns), heap */
};
void table_init(struct table *table, size_t n_columns, const char *const *headings);
void table_row(struct table *table, ...);               /* n_columns strings, copied */
void table_print(struct table *table, struct cli *cli, FILE *out);    /* and frees */
int text_width(const char *text);                       /* columns on a terminal */
char *plain_text(char *text);                           /* in place: no control characters; text may be NULL */
const char *shell_word(const char *text, char *out, size_t size);     /* text itself where it needs no quotes; size: 9 at least */

const char *bold(struct cli *cli, bool on);             /* escape sequences, or "" */
const char *dim(struct cli *cli, bool on);
const char *red(struct cli *cli, bool on);
const char *green(struct cli *cli, bool on);

/* A bar on stderr, redrawn in place at most ten times a second; nothing when stderr is no terminal. */
struct bar {
	const char *label;
	uint64_t drawn_ms;
	bool shown;
};
void bar_draw(struct cli *cli, struct bar *bar, double part, const char *figures);
void bar_end(struct cli *cli, struct bar *bar);
/* Text for people as it comes, words whole: one that would not fit begins the next line. Where out is no terminal, as it is. */
struct fold {
	FILE *out;
	int width, column, gap;       /* in terminal columns; width 0: no folding */
	int indent;                   /* of the lines after a fold */
	size_t length;
	char word[512];               /* held back until its end is seen */
};
void fold_init(struct fold *fold, FILE *out);
void fold_add(struct fold *fold, const char *text, size_t n);
void fold_end(struct fold *fold);                       /* writes what is held back */
/* A whole text, on a line that already has column columns, and then a newline. */
void fold_print(FILE *out, int column, int indent, const char *format, ...) __attribute__((format(printf, 4, 5)));

char *bytes_text(uint64_t bytes, char out[16]);
char *layers_text(yyjson_val *ranges, char *out, size_t size);        /* [[0,3],[11,12]] -> "0-2, 11" */
char *when_text(uint64_t unix_seconds, char out[32]);
char *ago_text(uint64_t unix_seconds, char out[32]);

/* --- JSON values with defaults --------------------------------------------------------------------------- */
const char *json_text(yyjson_val *object, const char *key);            /* "" when missing */
uint64_t json_uint(yyjson_val *object, const char *key);
double json_real(yyjson_val *object, const char *key);
bool json_bool(yyjson_val *object, const char *key);

/* --- commands: argv[0] is the command's own name; the result is an exit status ------------------------------ */
int command_init(struct cli *cli, int argc, char **argv);
int command_pause(struct cli *cli, int argc, char **argv);
int command_resume(struct cli *cli, int argc, char **argv);
int command_doctor(struct cli *cli, int argc, char **argv);
int command_status(struct cli *cli, int argc, char **argv);
int command_peers(struct cli *cli, int argc, char **argv);
int command_ring(struct cli *cli, int argc, char **argv);
int command_invite(struct cli *cli, int argc, char **argv);
int command_join(struct cli *cli, int argc, char **argv);
int command_agreement(struct cli *cli, int argc, char **argv);
int command_roster(struct cli *cli, int argc, char **argv);
int command_steward(struct cli *cli, int argc, char **argv);
int command_leave(struct cli *cli, int argc, char **argv);
int command_model(struct cli *cli, int argc, char **argv);
int command_chat(struct cli *cli, int argc, char **argv);

/* The path of another program of Essaim's: $variable, beside this one, in the build folder, or installed. NULL when there is none. */
#define DEMO_MODEL "essaim-demo.gguf"       /* in the home, when init was asked for it; chat uses it when there is no other */
/* Copies the demonstration model into the home; 0, or an exit status after the error was printed. */
int install_demo_model(struct cli *cli);
/* Runs essaimd with these arguments (the first is its own name) and reads the one JSON object it prints: its exit status, or -1 after the error
 * was printed. *out may come back NULL. */
int run_daemon(struct cli *cli, const char *const *args, yyjson_doc **out);
const char *find_program(const char *variable, const char *name, const char *build_folder, const char *installed);

#endif
