/* Echo: `moongate echo`, the sample application: answers with what it saw. */
#ifndef APP_ECHO_H
#define APP_ECHO_H

/* The subcommand: --listen ADDR:PORT [--name N]. Returns the exit status. */
int echo_main(int argc, char **argv);

#endif
