/* Intrusive doubly linked ring. A node that is in no list points at itself. Pure. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
  struct list *next, *previous;
};

#define container_of(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

static inline void list_init(struct list *l) { l->next = l->previous = l; }
static inline bool list_is_empty(const struct list *l) { return l->next == l; }
static inline void list_insert_last(struct list *head, struct list *node) {
  node->previous = head->previous;
  node->next = head;
  head->previous->next = node;
  head->previous = node;
}
static inline void list_insert_first(struct list *head, struct list *node) { list_insert_last(head->next, node); }
static inline void list_remove(struct list *node) {
  node->previous->next = node->next;
  node->next->previous = node->previous;
  list_init(node);
}

#endif
