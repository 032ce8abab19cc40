/* Run: `moongate run`: starts the threads, joins the rooms, and ends them in order. */
#ifndef APP_RUN_H
#define APP_RUN_H

/* Returns the exit status. */
int run_main(int argc, char **argv);

#endif
