/* Paths: where the Lua files are: beside the source tree's build, or under the prefix. */
#ifndef APP_PATHS_H
#define APP_PATHS_H

/* The folder that holds lua/, policies/ and kube/. MOONGATE_HOME overrides. Static storage; main thread. NULL if nowhere. */
const char *paths_home(void);

#endif
