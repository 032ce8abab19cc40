/* Traffic page: the request metrics of a traffic table as text, a part at a time. The thread that asks for it. */
#ifndef APP_TRAFFIC_PAGE_H
#define APP_TRAFFIC_PAGE_H

#include "base/buffer.h"
#include "route/traffic_table.h"

struct traffic_page;

/* Keeps the records that there are now until traffic_page_free; `constant`: labels of every series, which the caller keeps. */
struct traffic_page *traffic_page_new(struct traffic_table *table, struct span constant);
/* Appends the next part; false: that was the last. */
bool traffic_page_more(struct traffic_page *page, struct buffer *out);
void traffic_page_free(struct traffic_page *page);
/* The full name of a family (enum traffic_histogram). */
struct span traffic_page_family(unsigned family);

#endif
