/* gbnf.h: is a text a grammar in GBNF, the notation of llama.cpp, that libllama can use?
 *
 *   root ::= "yes" | "no" ws number{1,3}      # comment
 *   ws ::= [ \t\n]*
 *   number ::= [0-9] | [^a-z.] | . | (ws "-")?
 *
 * Asked before libllama sees a grammar: it prints what it cannot read, and some of what it reads would grow without end. Each name
 * must be defined once and "root" be there; no rule may begin with itself; nothing that may be empty may be repeated without
 * end. Tokens written as <name> or <[id]> are not known here.
 *
 * Pure. Thread: any. SPDX-License-Identifier: AGPL-3.0-or-later */
#ifndef PROTO_GBNF_H
#define PROTO_GBNF_H

#include <stddef.h>

#define GBNF_BYTES_MAX (64u << 10)
#define GBNF_RULES_MAX 4096          /* groups count as rules */
#define GBNF_NAME_MAX 64
#define GBNF_DEPTH_MAX 32            /* groups in groups */
#define GBNF_REPEAT_MAX 1000         /* the numbers in {m,n} */
#define GBNF_COPIES_MAX 20000        /* their sum: libllama writes a repetition out */

/* 0; ERR_MALFORMED or ERR_LIMIT, and why names the line, never the text. -ENOMEM. */
int gbnf_check(const char *text, size_t n, char *why, size_t why_size);

#endif
