/* `/wait-shutdown`: the preStop hook of ingress-nginx's manifests. */
#ifndef APP_WAIT_SHUTDOWN_H
#define APP_WAIT_SHUTDOWN_H

/* Sends SIGTERM to the controller that runs in this container and waits until it has ended. The exit status. */
int wait_shutdown_main(void);

#endif
