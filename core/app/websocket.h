/* WebSocket echo (RFC 6455) for the sample application: text, binary, ping and close; no extensions. */
#ifndef APP_WEBSOCKET_H
#define APP_WEBSOCKET_H

#include "app/service.h"

/* Accepts the handshake of the call and echoes each message; answers 400 to a bad handshake. */
void websocket_echo(struct service_call *call);

#endif
