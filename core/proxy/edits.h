/* Edits: what writing a fixed edit into a request's or a response's head has in common. */
#ifndef PROXY_EDITS_H
#define PROXY_EDITS_H

#include "http/headers.h"
#include "route/host.h"

/* Routes' edits know it since their host was built; the settings' do not. */
static inline enum header_id edits_header_id(const struct fixed_edit *edit) {
  return edit->header_id ? (enum header_id)edit->header_id : header_id_of(edit->name);
}

#endif
