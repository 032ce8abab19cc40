/* Test command: `moongate test DIR`: runs the policy specs of a folder with busted on LuaJIT, over the real C. */
#ifndef APP_TEST_COMMAND_H
#define APP_TEST_COMMAND_H

/* Returns the exit status (does not return when busted starts). */
int test_command_main(int argc, char **argv);

#endif
