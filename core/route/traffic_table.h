/* Traffic table: all records of traffic.h, by their labels. The publisher holds and releases them, as its units do; the admin thread lists them. */
#ifndef ROUTE_TRAFFIC_TABLE_H
#define ROUTE_TRAFFIC_TABLE_H

#include "route/traffic.h"

struct traffic_table;

struct traffic_labels {
  struct span host, path, namespace, ingress, service, canary;
};

/* Keeps a copy of the shape (without `at` and `cells`, which it works out). */
struct traffic_table *traffic_table_new(const struct traffic_shape *shape);
/* Units and workers are gone. */
void traffic_table_free(struct traffic_table *table);
const struct traffic_shape *traffic_table_shape(const struct traffic_table *table);

/* Publisher. The record of these labels, kept from before or new; each hold has its release. */
struct traffic *traffic_table_hold(struct traffic_table *table, const struct traffic_labels *labels);
void traffic_table_release(struct traffic *traffic);
/* Frees what no unit names and nobody pins. */
void traffic_table_sweep(struct traffic_table *table);
unsigned traffic_table_count(const struct traffic_table *table);
/* The record of requests that no route matched; lives as long as the table. Workers. */
struct traffic *traffic_table_nobody(const struct traffic_table *table);

/* Admin, any thread: those that have counted anything, oldest first, each pinned (traffic_table_unlist); NULL if there are none. */
struct traffic **traffic_table_list(struct traffic_table *table, unsigned *count);
void traffic_table_unlist(struct traffic **list, unsigned count);

#endif
