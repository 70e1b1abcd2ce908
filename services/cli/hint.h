// Commands of `conclave` for a person to type, as messages name them: so that they work when
// pasted.
#pragma once

#include <string>

namespace conclave::cli {

// "conclave down", called as this program was called ("build/conclave down") and with --state-dir
// where a plain call would look into another state folder than `state_dir`.
std::string Hint(const std::string& command, const std::string& state_dir);

// `text` as one word of a shell: quoted where it needs to be.
std::string ShellWord(const std::string& text);

}  // namespace conclave::cli
