/* Reply: answers of our own. reply_error is the one way to make an error answer. Worker's thread only. */
#ifndef PROXY_REPLY_H
#define PROXY_REPLY_H

#include "proxy/exchange.h"

/* Makes an error answer (nginx-like page) and turns the exchange to REPLY. `reason` is for the log only. If an answer has begun already, the exchange is to be
 * cut off instead: step LOG, the client's connection aborted. */
enum step_result reply_error(struct exchange *exchange, int status, struct span reason);
/* 413, counted. */
enum step_result reply_too_large(struct exchange *exchange);
/* The built-in default backend. */
enum step_result reply_default(struct exchange *exchange);
/* 400 for who speaks plain HTTP where TLS is due. */
enum step_result reply_plain_to_tls(struct exchange *exchange);
/* 301 to the path with a slash behind it. */
enum step_result reply_add_slash(struct exchange *exchange);
/* A new response of ours, without body. */
struct response_head *reply_make(struct exchange *exchange, int status, enum answer_source source);
/* Runs header_filter once over exchange->response. False if the answer was replaced: exchange->step is REPLY or REPLACE then. */
bool reply_filter(struct exchange *exchange);
/* The answer has begun and cannot be completed: the client's connection goes. */
enum step_result reply_cut_off(struct exchange *exchange, struct span reason);
enum step_result step_reply(struct exchange *exchange);

#endif
