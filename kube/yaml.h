/* YAML documents as Lua tables. */
#ifndef KUBE_YAML_H
#define KUBE_YAML_H

#include <lua.h>

#include "base/span.h"

enum yaml_result { YAML_OK = 0, YAML_EMPTY = 1, YAML_FAILED = 2 };

enum { YAML_MAX_DEPTH = 64, YAML_MAX_NODES = 2000000, YAML_MAX_ALIASES = 1000 };

/* Reads the one document in `text`. YAML_OK: pushes its value; `*line` is the line (from 1, in `text`) where it begins. YAML_EMPTY: nothing but comments,
 * nothing is pushed. YAML_FAILED: pushes the message; `*line` is where it went wrong. */
enum yaml_result yaml_read(lua_State *L, struct span text, unsigned *line);

#endif
