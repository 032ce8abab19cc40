/* Pattern: Lua's patterns with a bound on the work of one call. The language's own matcher backtracks in C where no count hook looks, so guests get this one.
 */
#ifndef SCRIPT_PATTERN_H
#define SCRIPT_PATTERN_H

#include <lua.h>

/* Puts bounded find, match, gmatch and gsub over those of the string library, and takes string.dump away. */
void pattern_install(lua_State *L);

#endif
