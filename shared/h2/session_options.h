// How nghttp2 is set up for every session.
#pragma once

#include <nghttp2/nghttp2.h>

namespace conclave::h2 {

// Lives as long as the process.
const nghttp2_option* SessionOptions();

}  // namespace conclave::h2
