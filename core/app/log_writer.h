/* Log writer: the one thread that writes lines out. Threads register a ring each; a full ring drops and counts. */
#ifndef APP_LOG_WRITER_H
#define APP_LOG_WRITER_H

#include "base/log.h"

struct log_writer;

/* `json`: form of our own log. Level starts at `level`. */
struct log_writer *log_writer_new(bool json, enum log_level level);
/* A log for one thread; lives as long as the writer. At start, before the threads run. */
struct log *log_writer_log(struct log_writer *writer, const char *thread);
_Atomic int *log_writer_level(struct log_writer *writer);
uint64_t log_writer_dropped(const struct log_writer *writer);
int log_writer_start(struct log_writer *writer);
/* Writes what is left and ends the thread; who still writes into a log is not heard, and not hurt. */
void log_writer_stop(struct log_writer *writer);
/* The same, and frees. */
void log_writer_free(struct log_writer *writer);

#endif
