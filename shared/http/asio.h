// The parts of Boost.Asio and Boost.Beast that this folder uses. Include this instead of their
// headers (shared/net/asio.h says why).
#pragma once

// clang-format off
#include "shared/net/asio.h"

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
// clang-format on
