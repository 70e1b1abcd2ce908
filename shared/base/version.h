// Which Conclave this program is.
#pragma once

#include <string_view>

namespace conclave {

// "0.1.0", from the project() line of the top CMakeLists.txt.
std::string_view Version();

// The commit of the sources, 12 hexadecimal digits, with "-dirty" when files were changed;
// "unknown" outside a Git checkout and in test programs, so that a new commit links programs again,
// but no tests.
std::string_view Commit();

}  // namespace conclave
