/* Exposition: the text format of Prometheus (version 0.0.4): families, labels, numbers. Pure; any thread. */
#ifndef BASE_EXPOSITION_H
#define BASE_EXPOSITION_H

#include <stdint.h>

#include "base/buffer.h"
#include "base/span.h"

#define EXPOSITION_FLOAT 32

/* The two lines above a family's samples. */
void exposition_family(struct buffer *out, struct span name, const char *type, const char *help);
/* Adds name="value" to a list of labels; bytes that are no UTF-8 become "?", so that no name of somebody's spoils the whole page. */
void exposition_label(struct buffer *labels, const char *name, struct span value);
void exposition_number(struct buffer *out, uint64_t value);
/* A number that counts parts: `digits` decimals, without zeros behind the last one. */
void exposition_scaled(struct buffer *out, uint64_t value, unsigned digits);
/* The shortest text that reads as this number, as Go writes it: dashboards ask for le="1e+06". */
struct span exposition_float(double value, char out[EXPOSITION_FLOAT]);
/* The front of one line: name{first,second} and a space; either list of labels may be empty. */
void exposition_begin(struct buffer *out, struct span name, struct span first, struct span second);
/* One whole line. */
void exposition_sample(struct buffer *out, struct span name, struct span first, struct span second, uint64_t value);

#endif
