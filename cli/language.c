/* Which language essaim speaks: gettext's catalogues, and texts that the daemon sent as a template with values.
 * SPDX-License-Identifier: AGPL-3.0-or-later */
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "proto/template.h"
#include <config.h>

static const char *asked_for(void)
{
	static const char *const variables[] = {"LC_ALL", "LC_MESSAGES", "LANG"};
	for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
		const char *value = getenv(variables[i]);
		if (value && *value)
			return value;
	}
	return "C";
}

/* Beside the build's programs, beside the installed ones wherever they were put, or where they were meant to be. */
static void find_catalogues(void)
{
	static const char *const places[] = {"../po/locale", "../share/locale"};
	char self[4096], path[4200];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	self[n > 0 ? n : 0] = 0;
	char *slash = strrchr(self, '/');
	for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
		snprintf(path, sizeof path, "%.*s/%s/fr/LC_MESSAGES/%s.mo", (int)(slash - self), self, places[i], PACKAGE);
		if (access(path, R_OK))
			continue;
		snprintf(path, sizeof path, "%.*s/%s", (int)(slash - self), self, places[i]);
		bindtextdomain(PACKAGE, path);
		return;
	}
	bindtextdomain(PACKAGE, LOCALEDIR);
}

void language_choose(void)
{
	/* A machine may lack the locale that its user names, above all a build root: text is UTF-8 then, and French is French. */
	const char *type = setlocale(LC_CTYPE, "");
	if (!type || !strcmp(type, "C") || !strcmp(type, "POSIX"))
		setlocale(LC_CTYPE, "C.UTF-8");
	if (!setlocale(LC_MESSAGES, "") && !strncmp(asked_for(), "fr", 2))
		setlocale(LC_MESSAGES, "fr_FR.UTF-8");
	find_catalogues();
	bind_textdomain_codeset(PACKAGE, "UTF-8");
	textdomain(PACKAGE);
}

const char *translated(const char *text)
{
	return text && *text ? gettext(text) : "";          /* gettext("") is the catalogue's own header */
}

const char *json_said(yyjson_val *object, const char *key, char *out, size_t size)
{
	bool remedy = !strcmp(key, "remedy");
	const char *template = json_text(object, remedy ? "remedy_template" : "template"), *values[TEMPLATE_VALUES_MAX];
	char said[TEMPLATE_VALUES_MAX][REASON_SIZE];
	yyjson_val *list = yyjson_obj_get(object, remedy ? "remedy_values" : "values"), *value;
	size_t i, n;
	/* A value may be a sentence of the daemon's own, an error's text for instance. */
	yyjson_arr_foreach(list, i, n, value)
		if (i < TEMPLATE_VALUES_MAX)
			values[i] = reason(yyjson_get_str(value), said[i], sizeof said[i]);
	n = yyjson_arr_size(list);
	if (!*template || n > TEMPLATE_VALUES_MAX || template_fill(out, size, translated(template), values, n))
		snprintf(out, size, "%s", reason(json_text(object, key), said[0], sizeof said[0]));
	return out;
}
