/* Tables, bars, colours: for people at a terminal. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#include "cli/cli.h"
#include "proto/text.h"

#define BAR_EVERY_MS 100

int text_width(const char *text)
{
	int width = 0;
	mbstate_t state = {0};
	wchar_t wide;
	size_t left = strlen(text), n;
	while (left && (n = mbrtowc(&wide, text, left, &state)) && n != (size_t)-1 && n != (size_t)-2) {
		int w = wcwidth(wide);
		width += w > 0 ? w : 0;
		text += n;
		left -= n;
	}
	return width + (int)left;        /* what is no text in this locale counts a column a byte */
}

const char *bold(struct cli *cli, bool on)
{
	return cli->terminal ? on ? "\033[1m" : "\033[0m" : "";
}
const char *dim(struct cli *cli, bool on)
{
	return cli->terminal ? on ? "\033[2m" : "\033[0m" : "";
}
const char *red(struct cli *cli, bool on)
{
	return cli->terminal ? on ? "\033[31m" : "\033[0m" : "";
}
const char *green(struct cli *cli, bool on)
{
	return cli->terminal ? on ? "\033[32m" : "\033[0m" : "";
}

/* Names, reasons and answers come from others: nothing of them may steer the terminal. Control characters (C0 but tabs, DEL, and C1
 * in UTF-8) become '?'. In place. */
char *plain_text(char *text)
{
	for (unsigned char *p = (unsigned char *)text; p && *p; p++)
		if ((*p < 0x20 && *p != '\t') || *p == 0x7f || (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)) {
			if (*p == 0xc2)
				p[1] = '?';
			*p = '?';
		}
	return text;
}

/* What a shell reads as one word again: in single quotes where it has to be. Cut where there is no room. */
const char *shell_word(const char *text, char *out, size_t size)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";
	size_t n = 0;
	if (*text && !text[strspn(text, plain)])
		return text;
	out[n++] = '\'';
	for (; *text && n + 6 < size; text++) {
		if (*text == '\'') {
			memcpy(out + n, "'\\'", 3);
			n += 3;
		}
		out[n++] = *text;
	}
	out[n++] = '\'';
	out[n] = 0;
	return out;
}

void table_init(struct table *table, size_t n_columns, const char *const *headings)
{
	memset(table, 0, sizeof *table);
	table->n_columns = n_columns;
	for (size_t i = 0; i < n_columns; i++)
		table->headings[i] = translated(headings[i]);
}

void table_row(struct table *table, ...)
{
	va_list ap;
	if (table->n_rows == table->capacity) {
		size_t capacity = table->capacity * 2 + 16;
		char **more = realloc(table->cells, capacity * table->n_columns * sizeof *more);
		if (!more)
			return;
		table->cells = more;
		table->capacity = capacity;
	}
	va_start(ap, table);
	for (size_t i = 0; i < table->n_columns; i++) {
		const char *cell = va_arg(ap, const char *);
		table->cells[table->n_rows * table->n_columns + i] = plain_text(strdup(cell ? cell : ""));
	}
	va_end(ap);
	table->n_rows++;
}

static void print_cell(FILE *out, const char *text, int width, bool right, bool last)
{
	int pad = width - text_width(text);
	if (right)
		fprintf(out, "%*s%s", pad > 0 ? pad : 0, "", text);
	else
		fprintf(out, "%s%*s", text, last || pad < 0 ? 0 : pad, "");
	fputs(last ? "\n" : "  ", out);
}

void table_print(struct table *table, struct cli *cli, FILE *out)
{
	int widths[TABLE_COLUMNS_MAX] = {0};
	size_t n = table->n_columns;
	bool right[TABLE_COLUMNS_MAX];
	for (size_t i = 0; i < n; i++) {
		right[i] = table->headings[i][0] == '>';
		widths[i] = text_width(table->headings[i] + right[i]);
		for (size_t row = 0; row < table->n_rows; row++)
			if (text_width(table->cells[row * n + i]) > widths[i])
				widths[i] = text_width(table->cells[row * n + i]);
	}
	bool plain = !cli->terminal;
	fputs(dim(cli, true), out);
	for (size_t i = 0; i < n; i++) {
		if (plain)
			fprintf(out, "%s%s", table->headings[i] + right[i], i + 1 < n ? "\t" : "\n");
		else
			print_cell(out, table->headings[i] + right[i], widths[i], right[i], i + 1 == n);
	}
	fputs(dim(cli, false), out);
	for (size_t row = 0; row < table->n_rows; row++)
		for (size_t i = 0; i < n; i++) {
			char *cell = table->cells[row * n + i];
			if (plain)
				fprintf(out, "%s%s", cell, i + 1 < n ? "\t" : "\n");
			else
				print_cell(out, cell, widths[i], right[i], i + 1 == n);
			free(cell);
		}
	free(table->cells);
	table->cells = NULL;
}

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void bar_draw(struct cli *cli, struct bar *bar, double part, const char *figures)
{
	if (!cli->progress || (bar->shown && now_ms() < bar->drawn_ms + BAR_EVERY_MS && part < 1))
		return;
	struct winsize size = {0};
	int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col < 20 ? 80 : size.ws_col;
	int room = columns - text_width(bar->label) - text_width(figures) - 12;
	int width = room > 40 ? 40 : room;
	part = part < 0 ? 0 : part > 1 ? 1 : part;
	fprintf(stderr, "\r\033[K%s ", bar->label);
	if (width >= 5) {
		int full = (int)(part * width + 0.5);
		for (int i = 0; i < width; i++)
			fputs(i < full ? "█" : "░", stderr);
	}
	fprintf(stderr, " %3d %%  %s", (int)(part * 100), figures);
	fflush(stderr);
	bar->drawn_ms = now_ms();
	bar->shown = true;
}

void bar_end(struct cli *cli, struct bar *bar)
{
	if (cli->progress && bar->shown)
		fputs("\r\033[K", stderr);
	bar->shown = false;
}

void fold_init(struct fold *fold, FILE *out)
{
	struct winsize size = {0};
	*fold = (struct fold){.out = out};
	if (isatty(fileno(out)))
		fold->width = ioctl(fileno(out), TIOCGWINSZ, &size) || size.ws_col < 20 ? 80 : size.ws_col;
}

static void fold_word(struct fold *fold)
{
	if (!fold->length)
		return;
	fold->word[fold->length] = 0;
	int width = text_width(plain_text(fold->word));
	if (fold->column > fold->indent && fold->column + fold->gap + width >= fold->width) {
		fprintf(fold->out, "\n%*s", fold->indent, "");
		fold->column = fold->indent;
		fold->gap = 0;
	}
	fprintf(fold->out, "%*s%s", fold->gap, "", fold->word);
	fold->column += fold->gap + width;
	fold->gap = 0;
	fold->length = 0;
}

void fold_add(struct fold *fold, const char *text, size_t n)
{
	if (!fold->width) {
		fwrite(text, 1, n, fold->out);
		fflush(fold->out);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (text[i] != ' ' && text[i] != '\n') {
			if (fold->length == sizeof fold->word - 1)
				fold_word(fold);
			fold->word[fold->length++] = text[i];
			continue;
		}
		fold_word(fold);
		if (text[i] == ' ') {
			fold->gap++;
		} else {
			fputc('\n', fold->out);
			fold->column = fold->gap = 0;
		}
	}
	fflush(fold->out);
}

void fold_end(struct fold *fold)
{
	if (fold->width)
		fold_word(fold);
	fold->gap = 0;
	fflush(fold->out);
}

void fold_print(FILE *out, int column, int indent, const char *format, ...)
{
	struct fold fold;
	char text[2048];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	fold_init(&fold, out);
	fold.column = column;
	fold.indent = indent;
	fold_add(&fold, text, strlen(text));
	fold_end(&fold);
	fputc('\n', out);
}

char *bytes_text(uint64_t bytes, char out[16])
{
	return text_bytes(bytes, out, 16);
}

char *layers_text(yyjson_val *ranges, char *out, size_t size)
{
	yyjson_val *range;
	size_t i, n, used = 0;
	out[0] = 0;
	yyjson_arr_foreach(ranges, i, n, range)
	{
		uint64_t first = yyjson_get_uint(yyjson_arr_get(range, 0)), end = yyjson_get_uint(yyjson_arr_get(range, 1));
		int k = end == first + 1 ? snprintf(out + used, size - used, "%s%llu", used ? ", " : "", (unsigned long long)first)
					 : snprintf(out + used, size - used, "%s%llu-%llu", used ? ", " : "", (unsigned long long)first,
						    (unsigned long long)end - 1);
		if (k < 0 || (size_t)k >= size - used)
			break;
		used += (size_t)k;
	}
	return out;
}

char *when_text(uint64_t unix_seconds, char out[32])
{
	time_t t = (time_t)unix_seconds;
	struct tm tm;
	localtime_r(&t, &tm);
	strftime(out, 32, "%Y-%m-%d %H:%M", &tm);
	return out;
}

char *ago_text(uint64_t unix_seconds, char out[32])
{
	uint64_t now = (uint64_t)time(NULL);
	return text_duration(now > unix_seconds ? now - unix_seconds : 0, out, 32);
}
