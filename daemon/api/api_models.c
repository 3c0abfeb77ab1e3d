/* What this node has and how it is: models, health, metrics. SPDX-License-Identifier: AGPL-3.0-or-later */
#include <stdlib.h>

#include "daemon/api/api_internal.h"

enum MHD_Result api_get_models(struct request *r, const char *one)
{
	struct buf text;
	enum MHD_Result ok;
	buf_init(&text, 1 << 20);
	if (one) {
		struct route_model m;
		char why[300] = "";
		int err = route_find(r->api->config.route, one, &m, why, sizeof why);
		if (err) {
			api_error_from(&r->error, err, why, 0);
			buf_release(&text);
			return api_reply_error(r);
		}
		api_model(&text, &m);
	} else {
		struct route_model *models = calloc(ROUTE_MODELS_MAX, sizeof *models);
		size_t n = models ? route_models(r->api->config.route, models, ROUTE_MODELS_MAX) : 0;
		api_models(&text, models, n);
		free(models);
	}
	ok = api_reply(r, 200, "application/json", &text);
	buf_release(&text);
	return ok;
}

enum MHD_Result api_get_health(struct request *r)
{
	struct buf text;
	buf_init(&text, 256);
	buf_append_str(&text, r->api->draining ? "{\"status\":\"stopping\"}" : "{\"status\":\"ok\"}");
	enum MHD_Result ok = api_reply(r, r->api->draining ? 503 : 200, "application/json", &text);
	buf_release(&text);
	return ok;
}

enum MHD_Result api_get_metrics(struct request *r)
{
	struct api *api = r->api;
	struct route_counts c = route_counts(api->config.route);
	struct buf text;
	buf_init(&text, 1 << 20);
	buf_printf(&text, "# HELP essaim_http_responses_total Answers by status class.\n# TYPE essaim_http_responses_total counter\n");
	for (unsigned i = 2; i < 6; i++)
		buf_printf(&text, "essaim_http_responses_total{class=\"%uxx\"} %llu\n", i, (unsigned long long)api->counts[i]);
	buf_printf(&text, "# HELP essaim_questions_total Questions asked at this node.\n# TYPE essaim_questions_total counter\nessaim_questions_total %llu\n",
		   (unsigned long long)c.questions);
	buf_printf(&text, "# HELP essaim_questions_failed_total Of them, those that ended with an error.\n"
			  "# TYPE essaim_questions_failed_total counter\nessaim_questions_failed_total %llu\n", (unsigned long long)c.failed);
	buf_printf(&text, "# HELP essaim_questions_running Questions being answered.\n# TYPE essaim_questions_running gauge\nessaim_questions_running %zu\n",
		   c.running);
	buf_printf(&text, "# HELP essaim_questions_waiting Of them, those that wait for a place.\n# TYPE essaim_questions_waiting gauge\n"
			  "essaim_questions_waiting %zu\n", c.waiting);
	buf_printf(&text, "# HELP essaim_tokens_total Tokens of prompts and answers of questions asked here.\n# TYPE essaim_tokens_total counter\n"
			  "essaim_tokens_total{kind=\"prompt\"} %llu\nessaim_tokens_total{kind=\"completion\"} %llu\n",
		   (unsigned long long)c.prompt_tokens, (unsigned long long)c.completion_tokens);
	if (api->config.metrics)
		api->config.metrics(api->config.arg, &text);
	enum MHD_Result ok = api_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
	buf_release(&text);
	return ok;
}
