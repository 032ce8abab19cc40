/* Check command: `moongate check PATH... [flags]`: the loader without listeners. */
#ifndef APP_CHECK_COMMAND_H
#define APP_CHECK_COMMAND_H

/* Returns the exit status: 0 nothing refused, 1 something is, 2 it could not begin. */
int check_command_main(int argc, char **argv);

#endif
