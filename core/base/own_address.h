/* Whether an address is this host's own, whatever interface bears it: what is sent there comes back to us. */
#ifndef BASE_OWN_ADDRESS_H
#define BASE_OWN_ADDRESS_H

#include <stdbool.h>

#include "base/address.h"

/* Asks the kernel, by a socket of its own: for configuration time. */
bool own_address_is(const struct address *address);

#endif
